//go:build !wasip1

package filter

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"hash"
	"strconv"
	"strings"
	"time"
)

func requestClientCertificate() (string, bool, error) { return "", false, nil }
func requestSetQuery(query string, present bool) error {
	path, _, _ := strings.Cut(current.Path, "?")
	if present {
		path += "?" + query
	}
	current.Path = path
	return nil
}
func headerValues(m message, name string) ([]string, error) {
	if value, present, _ := header(m, name); present {
		return []string{value}, nil
	}
	return nil, nil
}
func responseOrigin() (Origin, error)                         { return FromUpstream, nil }
func cacheStatus() (string, bool, error)                      { return "", false, nil }
func trailer(string) (string, bool, error)                    { return "", false, nil }
func trailers() ([]Field, error)                              { return nil, nil }
func setTrailer(string, string) error                         { return nil }
func removeTrailer(string) error                              { return nil }
func interestPieces(string, []string) error                   { return nil }
func cacheSetKeyPart(string, string) error                    { return nil }
func cacheAddTag(string) error                                { return nil }
func cacheSetFreshness(Freshness) error                       { return nil }
func cacheNoStore() error                                     { return nil }
func routeEndpoints() ([]Endpoint, error)                     { return current.Endpoints, nil }
func routeEndpointLabel(_, _, _ string) (string, bool, error) { return "", false, nil }
func routeNoRetry() error                                     { return nil }
func routeSummary() (string, error)                           { return "{}", nil }
func routeChoose(_, value string) error                       { return routeChooseEndpoints([]string{value}) }
func routeChooseEndpoints(all []string) error {
	current.Chosen = append(current.Chosen, all...)
	return nil
}
func routeUpstreams() ([]string, error) {
	var names []string
	for _, endpoint := range current.Endpoints {
		if len(names) == 0 || names[len(names)-1] != endpoint.Upstream {
			names = append(names, endpoint.Upstream)
		}
	}
	return names, nil
}

func limiterTake(limits []Limit, cost uint64) ([]Standing, error) {
	standings := make([]Standing, 0, len(limits))
	for _, limit := range limits {
		standing := Standing{Allowed: true, Remaining: limit.Amount}
		if current.Standing != nil {
			standing = current.Standing(limit, cost)
		}
		standings = append(standings, standing)
	}
	return standings, nil
}
func concurrencyEnter(_ []PlaceLimit, limits []Limit, cost uint64) (Admission, error) {
	standings, err := limiterTake(limits, cost)
	return Admission{-1, standings}, err
}

func kvCompareAndSwap(space, key string, expected, value []byte, ttl uint64) (bool, error) {
	found, present := current.KV[space+"/"+key]
	if present != (expected != nil) || !bytes.Equal(found, expected) {
		return false, nil
	}
	return true, kvSet(space, key, value, ttl)
}
func kvGetOrReserve(space, key string, _ uint64) (Reservation, []byte, error) {
	if value, present := current.KV[space+"/"+key]; present {
		return Found, value, nil
	}
	return Reserved, nil, nil
}
func kvWait(space, key string, _ uint32) ([]byte, error) { return kvGet(space, key) }

func passwordsAuthenticate(string, []byte) (string, bool, error) {
	return consumersAuthenticate("password", "")
}
func consumersRecallPassword(string, []byte) (string, bool, error) { return "", false, nil }
func consumersVouch(string, string) (bool, error)                  { return false, nil }
func consumersKnown() (bool, error)                                { return false, nil }
func consumersLabels() ([]Label, error)                            { return nil, nil }
func consumersText(string, string) (string, bool, error)           { return "", false, nil }

var hashes = map[string]func() hash.Hash{"sha-1": sha1.New, "sha-256": sha256.New, "sha-384": sha512.New384, "sha-512": sha512.New}

func digest(call, algorithm string, data []byte, of func(func() hash.Hash) hash.Hash) ([]byte, error) {
	made, known := hashes[algorithm]
	if !known {
		return nil, &Error{Call: call, Kind: Invalid, Reason: "unknown algorithm " + algorithm}
	}
	sum := of(made)
	sum.Write(data)
	return sum.Sum(nil), nil
}
func cryptoHash(algorithm string, data []byte) ([]byte, error) {
	return digest("crypto.hash", algorithm, data, func(made func() hash.Hash) hash.Hash { return made() })
}
func cryptoHMAC(algorithm string, key, data []byte) ([]byte, error) {
	return digest("crypto.hmac", algorithm, data, func(made func() hash.Hash) hash.Hash { return hmac.New(made, key) })
}
func cryptoEqual(a, b []byte) (bool, error) { return hmac.Equal(a, b), nil }

func httpSend(requests []Outgoing, _ uint32) ([]Incoming, error) {
	answers := make([]Incoming, 0, len(requests))
	for _, request := range requests {
		answer := Incoming{Err: &Error{Call: "http.send", Kind: Unavailable, Reason: "the double has no Answer"}}
		if current.Answer != nil {
			answer = current.Answer(request)
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// Since the program has started.
func clockMonotonic() uint64 { return uint64(time.Since(started)) }

var started = time.Now()

func contextGetPath(key string, path []string) (any, error) {
	value := current.Context[key]
	if text, is := value.(json.RawMessage); is {
		var err error
		if value, err = ParseJSON(text); err != nil {
			return nil, &Error{Call: "context.get-path", Kind: Invalid, Reason: err.Error()}
		}
	}
	for _, name := range path {
		members, _ := value.(map[string]any)
		value = members[name]
	}
	switch of := value.(type) {
	case nil, string, bool, int64, float64, []string:
		return of, nil
	case json.Number:
		if number, err := of.Int64(); err == nil {
			return number, nil
		}
		if _, err := strconv.ParseUint(string(of), 10, 64); err != nil {
			return of.Float64()
		}
	case []any:
		if texts := allTexts(of); texts != nil {
			return texts, nil
		}
	}
	text, err := FormatJSON(value)
	return json.RawMessage(text), err
}

// Nothing where one is no text.
func allTexts(list []any) []string {
	texts := []string{}
	for _, each := range list {
		text, is := each.(string)
		if !is {
			return nil
		}
		texts = append(texts, text)
	}
	return texts
}

// Nobody but the filter under test has left anything.
func contextWriter(key string) (string, bool, error) {
	if _, present := current.Context[key]; present {
		return "test", true, nil
	}
	return "", false, nil
}

// Import runs a call of a function of the interface that this package lacks (`go:wasmimport`). What it returns lies in memory that the next call uses anew:
// copy it before the function returns, and call nothing of this package in between.
func Import(call func()) { call() }
