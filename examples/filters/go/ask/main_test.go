package main

import (
	"testing"

	"sluice/filter"
)

func TestWhomTheServiceKnowsHasAnAccount(t *testing.T) {
	exchange := (&filter.Exchange{
		RequestHeaders: map[string]string{"x-caller": "ann"},
		Answer: func(asked filter.Outgoing) filter.Incoming {
			if asked.URL != "https://accounts.example/of" || string(asked.Body) != `{"caller":"ann"}` {
				t.Errorf("%+v", asked)
			}
			return filter.Incoming{Status: 200, Body: []byte(`{"account":7}`)}
		},
	}).In()
	verdict, err := ask{URL: "https://accounts.example/of", Amount: 2}.OnRequest(filter.Request{})
	if verdict != filter.Continue || err != nil || exchange.RequestHeaders["x-account"] != "7" {
		t.Errorf("%v, %v: %+v", verdict, err, exchange)
	}
}

func TestWhoIsOverTheLimitIsRefused(t *testing.T) {
	exchange := (&filter.Exchange{Standing: func(filter.Limit, uint64) filter.Standing {
		return filter.Standing{RetryAfter: 1500_000_000}
	}}).In()
	verdict, err := ask{URL: "https://accounts.example/of", Amount: 2}.OnRequest(filter.Request{})
	if verdict != filter.Respond || err != nil || exchange.Status != 429 || exchange.ResponseHeaders["retry-after"] != "2" {
		t.Errorf("%v, %v: %+v", verdict, err, exchange)
	}
}
