package filter

import (
	"encoding/json"
	"fmt"
)

// Consumer is the authenticated caller; present is false where no filter has found one.
func Consumer() (name string, present bool, err error) { return contextConsumer() }

// SetConsumer says who the caller is.
func SetConsumer(name string) error { return contextSetConsumer(name) }

// Context is a fact that a filter before this one has left: a string, int64, float64, bool, []string or json.RawMessage; nil for none.
func Context(key string) (any, error) { return contextGet(key) }

// ContextPath is a part of a fact that is JSON, by the names of the members from the outside in: `ContextPath("auth.claims", "realm_access", "roles")`. A list of
// strings is a []string, and a whole number that an int64 can't hold a json.RawMessage.
func ContextPath(key string, path ...string) (any, error) { return contextGetPath(key, path) }

// SetContext leaves a fact for the filters after this one: of the types of Context, or int; anything else becomes JSON.
func SetContext(key string, value any) error {
	switch value := value.(type) {
	case int:
		return contextSet(key, int64(value))
	case string, int64, float64, bool, []string, json.RawMessage:
		return contextSet(key, value)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("context %s: %w", key, err)
	}
	return contextSet(key, json.RawMessage(text))
}

// ContextWriter is the name of the filter that has left a fact.
func ContextWriter(key string) (name string, present bool, err error) { return contextWriter(key) }

// State is what this filter has kept of the exchange; nil for nothing.
func State() ([]byte, error) { return stateGet() }

// SetState keeps up to 64 KiB for the later hooks of this exchange.
func SetState(value []byte) error { return stateSet(value) }

// Level of a line of the log.
type Level uint32

const (
	Trace Level = iota
	Debug
	Info
	Warn
	Err
)

// Log writes a line.
func Log(level Level, format string, arguments ...any) {
	logLine(level, fmt.Sprintf(format, arguments...))
}

// Label of a metric or a consumer.
type Label struct{ Name, Value string }

// Count adds to a counter.
func Count(name string, delta uint64, labels ...Label) error {
	return metricsCount(name, labels, delta)
}

// Gauge sets a gauge.
func Gauge(name string, value float64, labels ...Label) error {
	return metricsGauge(name, labels, value)
}

// Observe adds a value to a histogram.
func Observe(name string, value float64, labels ...Label) error {
	return metricsObserve(name, labels, value)
}

// Secret that was granted.
func Secret(name string) (string, error) { return secretsGet(name) }

// NowMicros since 1970; under the control of the gateway, as time.Now is not.
func NowMicros() uint64 { return clockNow() }

// MonotonicNanos are of a clock that never goes back, from an arbitrary start.
func MonotonicNanos() uint64 { return clockMonotonic() }

// Random bytes, fit for secrets.
func Random(length uint32) ([]byte, error) { return randomBytes(length) }

// KVGet is the value of a key of a granted space; nil for none.
func KVGet(space, key string) ([]byte, error) { return kvGet(space, key) }

// KVSet sets a value for some milliseconds; 0: until it is deleted.
func KVSet(space, key string, value []byte, ttlMillis uint64) error {
	return kvSet(space, key, value, ttlMillis)
}

// KVDelete answers whether there was one.
func KVDelete(space, key string) (bool, error) { return kvDelete(space, key) }

// Authenticate looks up the consumer that has a credential, such as an API key (kind `key`), and makes it the caller.
func Authenticate(kind, credential string) (name string, present bool, err error) {
	return consumersAuthenticate(kind, credential)
}

// AuthenticateRecalled is AuthenticatePassword without its wait: it knows only what was verified before.
func AuthenticateRecalled(username string, password []byte) (name string, present bool, err error) {
	return consumersRecallPassword(username, password)
}

// Vouch makes the consumer of this name the caller, where the filter has found out that it is; method says how, such as `forward-auth`. It answers false
// where no consumer has this name.
func Vouch(name, method string) (bool, error) { return consumersVouch(name, method) }

// ConsumerKnown says whether the caller is a consumer of the operator's.
func ConsumerKnown() (bool, error) { return consumersKnown() }

// ConsumerPlan is the plan of the caller.
func ConsumerPlan() (plan string, present bool, err error) { return consumersText("plan", "") }

// ConsumerLabel is a label of the caller.
func ConsumerLabel(name string) (value string, present bool, err error) {
	return consumersText("label", name)
}

// ConsumerLabels are all labels of the caller.
func ConsumerLabels() ([]Label, error) { return consumersLabels() }

// ConsumerMethod is how the caller was found, such as `key`.
func ConsumerMethod() (method string, present bool, err error) { return consumersText("method", "") }

// KVCompareAndSwap sets a value if the present one is what was expected (nil: if there is none), and answers whether it did. ttlMillis as KVSet.
func KVCompareAndSwap(space, key string, expected, value []byte, ttlMillis uint64) (bool, error) {
	return kvCompareAndSwap(space, key, expected, value, ttlMillis)
}

// Reservation is what KVGetOrReserve has found.
type Reservation uint8

const (
	// Found is a value.
	Found Reservation = iota
	// Reserved: there was no value, and this caller should make it.
	Reserved
	// Pending: there is no value, and another caller makes it. KVWait waits for it.
	Pending
)

// KVGetOrReserve is the value, or a reservation for at most some milliseconds so that one caller of many makes it.
func KVGetOrReserve(space, key string, ttlMillis uint64) (Reservation, []byte, error) {
	return kvGetOrReserve(space, key, ttlMillis)
}

// Hash is `sha-1`, `sha-256`, `sha-384` or `sha-512` at native speed.
func Hash(algorithm string, data []byte) ([]byte, error) { return cryptoHash(algorithm, data) }

// HMAC (RFC 2104) with one of these hashes.
func HMAC(algorithm string, key, data []byte) ([]byte, error) {
	return cryptoHMAC(algorithm, key, data)
}

// Equal compares in constant time.
func Equal(a, b []byte) (bool, error) { return cryptoEqual(a, b) }
