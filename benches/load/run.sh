#!/usr/bin/env bash
# The stress tests at full length against the release binary (see benches/README.md). Loopback only; each run is bounded.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export SLUICE_TEST_TRAPS=${SLUICE_TEST_TRAPS:-100000} SLUICE_TEST_SPINS=${SLUICE_TEST_SPINS:-2000}
export SLUICE_TEST_RELOAD_SECONDS=${SLUICE_TEST_RELOAD_SECONDS:-60} SLUICE_TEST_LIMITED_REQUESTS=${SLUICE_TEST_LIMITED_REQUESTS:-100000}
export SLUICE_TEST_TRANSFER_MIB=${SLUICE_TEST_TRANSFER_MIB:-100}
export SLUICE_TEST_EVENT_STREAMS=${SLUICE_TEST_EVENT_STREAMS:-1000} SLUICE_TEST_EVENT_SECONDS=${SLUICE_TEST_EVENT_SECONDS:-20}
export SLUICE_BIN=${SLUICE_BIN:-$(pwd)/target/release/sluice}
[ -n "${CARGO_TARGET_DIR:-}" ] && [ "$SLUICE_BIN" = "$(pwd)/target/release/sluice" ] && SLUICE_BIN=$CARGO_TARGET_DIR/release/sluice
if [ ! -x "$SLUICE_BIN" ]; then
  echo "no release binary at $SLUICE_BIN: run cargo build --release first" >&2
  exit 1
fi
tests=()
for what in "${@:-all}"; do
  case $what in
    traps) tests+=(neighbours::trapping_calls) ;;
    spins) tests+=(neighbours::spinning_calls) ;;
    reload) tests+=(reloads::) ;;
    limit) tests+=(exact::) ;;
    stream) tests+=(streaming::) ;;
    events) tests+=(events::) ;;
    all) tests+=(neighbours:: reloads:: exact:: streaming:: events::) ;;
    *) echo "unknown: $what (traps spins reload limit stream events)" >&2; exit 2 ;;
  esac
done
exec cargo test -p sluice --test stress -- --nocapture --test-threads 1 "${tests[@]}"
