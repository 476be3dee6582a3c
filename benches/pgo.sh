#!/usr/bin/env bash
# Builds the gateway guided by a profile of itself, into target/pgo/release/sluice: once so that it counts what runs, then, after
# the comparison's load, with what was counted. Two builds and a minute of load. Needs what benches/compare/run.py needs, and LLVM's tools.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dir=$PWD/target/pgo
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[ -x "$profdata" ] || rustup component add llvm-tools

# With --target the flag is not one of build scripts and filters. RUSTFLAGS would be split where a path has a space.
build() {
  CARGO_TARGET_DIR=$dir CARGO_ENCODED_RUSTFLAGS=$1 cargo build --release --locked --target "$host" -p sluice --bin sluice
  cp --remove-destination "$dir/$host/release/sluice" "$dir/release/sluice"
}

rm -rf "$dir/profiles"
build "-Cprofile-generate=$dir/profiles"
CARGO_TARGET_DIR=$dir benches/compare/run.py --proxies Sluice --rounds 1 --seconds 3 --out "$dir/training" \
  --scenarios plain,large,tls,h2,filter1,filter5,fresh,auth
"$profdata" merge -o "$dir/merged.profdata" "$dir/profiles"
build "-Cprofile-use=$dir/merged.profdata"
echo "built $dir/release/sluice"
