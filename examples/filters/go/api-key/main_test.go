package main

import (
	"testing"

	"sluice/filter"
)

func TestKeys(t *testing.T) {
	config := apiKey{Keys: map[string]key{"k1": {Name: "ann", Account: 7}}}
	known := (&filter.Exchange{RequestHeaders: map[string]string{"x-api-key": "k1"}}).In()
	if verdict, err := config.OnRequest(filter.Request{}); verdict != filter.Continue || err != nil || known.Consumer != "ann" {
		t.Errorf("%v, %v: %+v", verdict, err, known)
	}
	unknown := (&filter.Exchange{}).In()
	if verdict, err := config.OnRequest(filter.Request{}); verdict != filter.Respond || err != nil {
		t.Errorf("%v, %v", verdict, err)
	}
	if unknown.Status != 401 || unknown.Reason != "key-missing" || unknown.Counted["refused reason=key-missing"] != 1 {
		t.Errorf("%+v", unknown)
	}
}
