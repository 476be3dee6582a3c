#!/usr/bin/env bash
# modes: plain tls h2 filter filter5 auth key acl basic ip ask limit files hit redact
# The gateway's side of the comparison with other proxies: writes $RUN/gateway.toml and execs the release binary, with default
# limits, timeouts, metrics and ids. It builds nothing. In the environment: MODE FILTERS PORT UP_PORT WORKERS CERT KEY JWT_SECRET RATE RUN
# (RATE: requests per second and key, and how many at once); CALLER PASSWORD API_KEY for the modes from key to ask, which need $RUN/blocked.txt for `ip`, and $RUN/www for `files`; for rows of
# its own GUARDED=1 (two endpoints with health checks, outlier detection, a circuit breaker, peak EWMA and retries), INSTANCES=fresh (a new instance for each exchange, of a header filter and in the modes from key on), REMEMBER_TOKENS=1000, and in the mode
# limit STATE=leased or exact, with the redis-server at REDIS_PORT.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}
sluice=$target/release/sluice
if [ ! -x "$sluice" ]; then
  echo "no release binary at $sluice: run cargo build --release first" >&2
  exit 1
fi

listener="bind = \"127.0.0.1:$PORT\"" certificate= filters= pipeline= upstream="http://127.0.0.1:$UP_PORT" cache=
case $MODE in
  plain)
    [ -z "${GUARDED:-}" ] || { upstream=origin filters="retry = {}
[upstreams.origin]
endpoints = [\"http://127.0.0.1:$UP_PORT\", \"http://127.0.0.2:$UP_PORT\"]
balance = \"peak_ewma\"
health = { path = \"/1k\", interval = \"1s\" }
outlier_detection = {}
circuit_breaker = {}"; } ;;
  hit)
    cache='cache = { ttl = "1h" }' ;;
  tls | h2)
    [ "$MODE" = tls ] && protocols='["http/1.1"]' || protocols='["http/1.1", "h2"]'
    listener="$listener
tls = { certificates = [\"bench\"], min_version = \"1.3\" }
protocols = $protocols"
    certificate="[certificates.bench]
cert = \"$CERT\"
key = \"$KEY\"" ;;
  filter*)
    n=${FILTERS:-${MODE#filter}}
    for i in $(seq "${n:-1}"); do
      pipeline="$pipeline\"f$i\", "
      filters="$filters
[filters.f$i]
plugin = \"rust-header\"
config = { copy_from = \"x-bench-in\", copy_to = \"x-filter-req-$i\", response_header = \"x-filter-resp-$i\", response_value = \"1\" }"
    done
    filters="[plugins.rust-header]
file = \"$target/plugins/rust-header.wasm\"
instances = { mode = \"${INSTANCES:-reused}\" }
$filters" ;;
  auth)
    # What no other proxy in the comparison does is off: fields that tell the limit, claims for further filters, and remembered tokens.
    pipeline='"auth", "limit", "shape"'
    filters="[filters.auth]
plugin = \"jwt-auth\"
grants = { read_headers = [\"authorization\"], write_headers = [\"authorization\"] }
config = { secret = \"$JWT_SECRET\", algorithms = [\"HS256\"], issuer = \"bench\", headers = { x-user = \"sub\" }, forward_token = false, context = false, remember_tokens = ${REMEMBER_TOKENS:-0} }
[filters.limit]
plugin = \"rate-limit\"
grants = { read_headers = [\"x-api-key\"] }
config = { limits = [{ key = \"header:x-api-key\", amount = $RATE, window = \"1s\" }], headers = [] }
[filters.shape]
plugin = \"transform\"
config.request.headers.remove = [\"x-remove-me\"]
config.response.headers = { set = { x-gw = \"1\" }, remove = [\"x-upstream-secret\"] }" ;;
  redact)
    pipeline='"private"'
    filters="[plugins.redact]
instances = { mode = \"${INSTANCES:-reused}\" }
[filters.private]
plugin = \"redact\"
config.rules = [{ name = \"secrets\", pointers = [\"/**/password\"] }, { name = \"card\", detect = \"card\" }]" ;;
  key | acl)
    pipeline='"key"'
    filters="[consumers.$CALLER]
plan = \"gold\"
labels = { status = \"active\", tier = \"partner\" }
keys = [\"$(printf '%s' "$API_KEY" | "$sluice" hash key 2> /dev/null)\"]
[plugins.api-key]
instances = { mode = \"${INSTANCES:-reused}\" }
[filters.key]
plugin = \"api-key\"
grants = { consumers = true, read_headers = [\"x-api-key\"], write_headers = [\"x-api-key\"] }"
    [ "$MODE" = key ] || { pipeline='"key", "access"'; filters="$filters
[plugins.acl]
instances = { mode = \"${INSTANCES:-reused}\" }
[filters.access]
plugin = \"acl\"
config.rules = [
    { name = \"blocked\", effect = \"deny\", if = { labels = { status = \"blocked\" } } },
    { name = \"read\", effect = \"allow\", if = { methods = [\"GET\"], plans = [\"gold\", \"silver\"] } },
]"; } ;;
  basic)
    pipeline='"password"'
    filters="[consumers.$CALLER]
passwords = { $CALLER = \"$(printf '%s' "$PASSWORD" | "$sluice" hash password 2> /dev/null)\" }
[plugins.basic-auth]
instances = { mode = \"${INSTANCES:-reused}\" }
[filters.password]
plugin = \"basic-auth\"
grants = { consumers = true, read_headers = [\"authorization\"], write_headers = [\"authorization\"] }" ;;
  ip)
    pipeline='"addresses"'
    filters="[plugins.ip-filter]
instances = { mode = \"${INSTANCES:-reused}\" }
[filters.addresses]
plugin = \"ip-filter\"
config = { deny = \"\${file:blocked.txt}\" }" ;;
  ask)
    pipeline='"ask"'
    filters="[plugins.forward-auth]
instances = { mode = \"${INSTANCES:-reused}\" }
[filters.ask]
plugin = \"forward-auth\"
grants = { http = [\"http://127.0.0.1:$UP_PORT\"], kv = [\"forward-auth\"], read_headers = [\"authorization\", \"cookie\"] }
config = { url = \"http://127.0.0.1:$UP_PORT/1k\", cache = { key = [\"header:authorization\"], ttl = \"1d\" } }" ;;
  limit)
    pipeline='"limit"'
    case ${STATE:-memory} in
      memory) state= ;;
      # A gateway lets some thousand requests through in the 10 ms in which a lease is told.
      leased) state='state = { name = "shared", limits = "leased", lease = 10000, values = "local" }' ;;
      exact) state='state = "shared"' ;;
    esac
    filters="[plugins.rate-limit]
instances = { mode = \"${INSTANCES:-reused}\" }
$state
[filters.limit]
plugin = \"rate-limit\"
grants = { read_headers = [\"x-api-key\"] }
config = { limits = [{ key = \"header:x-api-key\", amount = $RATE, window = \"1s\" }], headers = [] }"
    [ -z "$state" ] || filters="$filters
[state.shared]
redis = [\"redis://127.0.0.1:$REDIS_PORT\"]" ;;
  files)
    upstream=site
    filters="[upstreams.site]
files = \"$RUN/www\"" ;;
  *) echo "unknown mode $MODE" >&2; exit 1 ;;
esac

cat > "$RUN/gateway.toml" <<CONF
[gateway]
workers = $WORKERS
cache_dir = "$RUN/cache"
[telemetry]
access_log = "off"
[admin]
bind = "127.0.0.1:0"
[listeners.bench]
$listener
$certificate
[routes.all]
match = { path = "/**" }
upstream = "$upstream"
pipeline = [$pipeline]
$cache
$filters
CONF
exec "$sluice" run --config "$RUN/gateway.toml"
