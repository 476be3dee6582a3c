// Calls calls what no example calls, and answers with what came of it, a line for each.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"sluice/filter"
)

type calls struct {
	URL string `json:"url"`
}

func (c calls) OnRequest(request filter.Request) (filter.Verdict, error) {
	if path, err := request.Path(); err != nil || path != "/calls" {
		return filter.Continue, err
	}
	var said strings.Builder
	line := func(format string, values ...any) { fmt.Fprintf(&said, format+"\n", values...) }
	failed := func(name string, err error) {
		var refused *filter.Error
		if errors.As(err, &refused) {
			line("%s %s", name, refused.Kind)
		}
	}

	limits := []filter.Limit{
		{Key: "a", Amount: 2, Window: time.Hour},
		{Key: "b", Algorithm: filter.FixedWindow, Amount: 10, Window: 366 * 24 * time.Hour},
	}
	for _, cost := range []uint64{1, 5} {
		got, err := filter.Take(cost, limits...)
		if err != nil {
			return filter.Continue, err
		}
		line("take %t %d, %t %d", got[0].Allowed, got[0].Remaining, got[1].Allowed, got[1].Remaining)
	}
	_, err := filter.Take(1, filter.Limit{Key: "a", Window: time.Hour})
	failed("take", err)

	for range 2 {
		got, err := filter.Enter([]filter.PlaceLimit{{Key: "free", Amount: 9}, {Key: "p", Amount: 1}}, 1, limits[1])
		if err != nil {
			return filter.Continue, err
		}
		line("enter %d %d", got.Full, len(got.Standings))
	}

	for _, set := range []bool{false, false, true} {
		if set {
			if err := filter.KVSet("s", "k", []byte("v"), 60_000); err != nil {
				return filter.Continue, err
			}
		}
		got, value, err := filter.KVGetOrReserve("s", "k", 60_000)
		if err != nil {
			return filter.Continue, err
		}
		line("reserve %d %s", got, value)
		if got == filter.Pending {
			_, err = filter.KVWait("s", "k", time.Millisecond)
			failed("wait", err)
		}
	}
	value, err := filter.KVWait("s", "k", time.Millisecond)
	if err != nil {
		return filter.Continue, err
	}
	line("wait %s", value)
	swapped, err := filter.KVCompareAndSwap("s", "k", []byte("v"), []byte("w"), 60_000)
	if err != nil {
		return filter.Continue, err
	}
	again, err := filter.KVCompareAndSwap("s", "k", nil, []byte("x"), 0)
	if err != nil {
		return filter.Continue, err
	}
	value, err = filter.KVGet("s", "k")
	line("swap %t %t %s", swapped, again, value)
	failed("swap", err)

	fields := []filter.Field{{Name: "x-a", Value: "1"}, {Name: "x-b", Value: "2"}}
	answers, err := filter.Send(5*time.Second,
		filter.Outgoing{URL: c.URL, Headers: fields}, filter.Outgoing{URL: "http://192.0.2.1/"}, filter.Outgoing{Method: "PUT", URL: c.URL, Body: []byte("body")})
	if err != nil {
		return filter.Continue, err
	}
	for _, answer := range answers {
		if answer.Err != nil {
			failed("http", answer.Err)
			continue
		}
		for _, field := range answer.Headers {
			if field.Name == "x-seen" {
				line("http %d %s %s", answer.Status, field.Value, answer.Body)
			}
		}
	}

	hash, err := filter.Hash("sha-256", []byte("abc"))
	if err != nil {
		return filter.Continue, err
	}
	code, err := filter.HMAC("sha-512", []byte("key"), []byte("abc"))
	if err != nil {
		return filter.Continue, err
	}
	same, err := filter.Equal(hash, hash)
	if err != nil {
		return filter.Continue, err
	}
	other, err := filter.Equal(hash, code)
	if err != nil {
		return filter.Continue, err
	}
	line("hash %02x%02x %d %t %t", hash[0], hash[1], len(code), same, other)

	_, plan, err := filter.ConsumerPlan()
	if err != nil {
		return filter.Continue, err
	}
	known, err := filter.ConsumerKnown()
	line("consumer %t %t", known, plan)
	failed("consumer", err)
	_, err = filter.Vouch("ann", "test")
	failed("vouch", err)
	_, _, err = filter.AuthenticatePassword("ann", []byte("x"))
	failed("password", err)

	for key, value := range map[string]any{"i": -7, "b": true, "j": json.RawMessage("[1]")} {
		if err := filter.SetContext(key, value); err != nil {
			return filter.Continue, err
		}
	}
	integer, err := filter.Context("i")
	failed("context", err)
	boolean, err := filter.Context("b")
	failed("context", err)
	text, err := filter.Context("j")
	failed("context", err)
	_, is := text.(int64)
	line("context %d %t %s %t", integer, boolean, text, is)
	if err := filter.SetContext("p", map[string]any{"a": map[string]any{"b": []string{"x", "y"}}}); err != nil {
		return filter.Continue, err
	}
	part, err := filter.ContextPath("p", "a", "b")
	failed("part", err)
	if texts, is := part.([]string); !is || len(texts) != 2 || texts[1] != "y" {
		line("part %v", part)
	}
	if labels, err := filter.ConsumerLabels(); err != nil || len(labels) != 0 {
		line("labels %v %v", labels, err)
	}
	writer, _, err := filter.ContextWriter("i")
	failed("writer", err)
	if before := filter.MonotonicNanos(); writer != "calls" || filter.MonotonicNanos() < before {
		line("%s %d", writer, before)
	}

	if err := request.SetQuery("a=b"); err != nil {
		return filter.Continue, err
	}
	query, _, err := request.Query()
	if err != nil {
		return filter.Continue, err
	}
	protocol, err := request.Protocol()
	line("query %s %s", query, protocol)
	failed("query", err)
	failed("piece", filter.Chunk{}.Hold(0))

	return filter.Respond, filter.Response{}.SetBody([]byte(said.String()))
}

func (c calls) SelectUpstream(route filter.Route) error {
	endpoints, err := route.Endpoints()
	if err != nil {
		return err
	}
	last := endpoints[len(endpoints)-1]
	if label, present, err := route.EndpointLabel(last.Upstream, last.Address, "none"); present || err != nil {
		return fmt.Errorf("label %q: %w", label, err)
	}
	filter.Log(filter.Info, "endpoints %d %s %t %d", len(endpoints), last.Upstream, last.Healthy, last.Weight)
	return route.ChooseEndpoints(last.Address)
}

func (c calls) OnResponseTrailers(response filter.Response) error {
	value, _, err := response.Trailer("x-sum")
	if err != nil {
		return err
	}
	return response.SetTrailer("x-sum", value+"!")
}

func init() {
	filter.Export(func(config calls, _ *filter.Setup) (calls, error) { return config, nil })
}

func main() {}
