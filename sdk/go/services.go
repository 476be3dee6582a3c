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

// Label of a metric.
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
