package main

import (
	"strings"
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

func TestAnAnswerWithoutAnAccountIsAnError(t *testing.T) {
	for _, body := range []string{`{}`, `{"account":null}`, `{"account":-1}`, `{"account":"7"}`, ``} {
		exchange := (&filter.Exchange{Answer: func(filter.Outgoing) filter.Incoming {
			return filter.Incoming{Status: 200, Body: []byte(body)}
		}}).In()
		_, err := ask{URL: "https://accounts.example/of", Amount: 2}.OnRequest(filter.Request{})
		if _, set := exchange.RequestHeaders["x-account"]; err == nil || set {
			t.Errorf("%s: %+v", body, exchange)
		}
	}
}

func TestALongNameIsRefusedBeforeAnybodyIsAsked(t *testing.T) {
	exchange := (&filter.Exchange{RequestHeaders: map[string]string{"x-caller": strings.Repeat("é", 51)}}).In()
	verdict, err := ask{URL: "https://accounts.example/of", Amount: 2}.OnRequest(filter.Request{})
	if verdict != filter.Respond || err != nil || exchange.Status != 403 {
		t.Errorf("%v, %v: %+v", verdict, err, exchange)
	}
}

func TestAnAmountOfNothingIsRefused(t *testing.T) {
	for _, amount := range []string{"0", "-1"} {
		if _, err := (&filter.Exchange{}).Configure(`{"url": "https://accounts.example/of", "amount": ` + amount + `}`); err == nil || !strings.HasPrefix(err.Error(), "amount: ") {
			t.Errorf("%s: %v", amount, err)
		}
	}
}
