# What one needs daily. `just` lists it; each recipe is a command that you can also type.
# just: https://just.systems, or `cargo install just`, or your distribution's package.

set positional-arguments

_list:
    @just --list --unsorted

# Builds the gateway for debugging, with its filters
build:
    cargo build --locked

# Builds and serves a configuration
run config="gateway.toml":
    cargo run --locked --release -- run -c {{ quote(config) }}

# Checks that everything compiles: the fastest answer
check:
    cargo check --locked --workspace --all-targets

# Runs all tests, or those of the packages and names given: `just test -p jwt-auth expired`
test *arguments:
    cargo test --locked "$@"

# Runs the end-to-end tests whose path has NAME: `just e2e reload`
e2e name:
    cargo test --locked -p sluice --test e2e -- {{ quote(name) }}

# Formats
fmt:
    cargo fmt --all

# Lints as CI does
lint:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings

# Builds the documentation of the crates; a broken link is an error
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

# Checks licences, bans and sources of the dependencies (`cargo install cargo-deny`)
deny:
    cargo deny --locked check licenses bans sources

# Counts the instructions of each step of a request and compares them with what is accepted (valgrind)
instructions *arguments:
    benches/micro/instructions.py "$@"

# Compares with other proxies: `just bench-compare --quick --proxies nginx,Sluice`
bench-compare *arguments:
    cargo build --locked --release
    benches/compare/run.py "$@"

# Judges the cache by the public suite: `just cache-suite DIR`, with a checkout of http-tests/cache-tests in DIR and its packages
cache-suite suite *arguments:
    cargo build --locked --release
    node tests/external/cache_suite.mjs {{ quote(suite) }} target/release/sluice {{ arguments }}

# The cache and its tier while the origin flaps and Redis hangs and is killed, with so many URLs (redis-server)
cache-chaos objects="100000":
    CACHE_OBJECTS={{ quote(objects) }} SLUICE_REQUIRE_ALL=1 cargo test --locked --test e2e cache_shared::nothing_breaks

# Fuzzes a target for some seconds (nightly, `cargo install cargo-fuzz`); targets: tests/fuzz/fuzz_targets
fuzz target seconds="60":
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --features services {{ quote(target) }} -- -max_total_time={{ quote(seconds) }}

# Runs everything that has to be green, as CI does from a fresh clone
ci:
    .ci/run
