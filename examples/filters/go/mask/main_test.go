package main

import (
	"strings"
	"testing"

	"sluice/filter"
)

func TestAWordIsHiddenWhereverItIsSplit(t *testing.T) {
	exchange := (&filter.Exchange{}).In()
	for _, pieces := range [][]string{{"a secret b"}, {"a sec", "ret b"}, {"a s", "e", "c", "r", "e", "t", " b"}} {
		sent, err := exchange.ResponseChunks(mask{Word: "secret"}, pieces...)
		if got := strings.Join(sent, ""); got != "a ****** b" || err != nil {
			t.Errorf("%q: %q, %v", pieces, got, err)
		}
	}
}

func TestAWordIsHiddenInEvents(t *testing.T) {
	exchange := (&filter.Exchange{}).In()
	sent, err := exchange.ResponseEvents(mask{Word: "secret"}, "event: note\ndata: a secret\n\n", ": ping\n\n", "data: \xffsecret\n\n", "data: none\n\n")
	if got := strings.Join(sent, ""); got != "event: note\ndata: a ******\n\n: ping\n\ndata: \xff******\n\ndata: none\n\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
