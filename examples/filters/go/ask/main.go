// Ask asks a service who the caller is, for a few requests of each caller.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sluice/filter"
)

type ask struct {
	URL    string `json:"url"`
	Amount uint64 `json:"amount"`
}

func (a ask) OnRequest(request filter.Request) (filter.Verdict, error) {
	caller, _, err := request.Header("x-caller")
	if err != nil {
		return filter.Continue, err
	}
	if len(caller) > 100 {
		return filter.Problem{Status: 403, Title: "Forbidden", Detail: "the name of the caller is too long", Reason: "unknown-caller"}.Send()
	}
	standings, err := filter.Take(1, filter.Limit{Key: caller, Amount: a.Amount, Window: time.Hour})
	if err != nil {
		return filter.Continue, err
	}
	if !standings[0].Allowed {
		seconds := fmt.Sprint(int64((standings[0].RetryAfter + time.Second - 1) / time.Second))
		headers := []filter.Field{{Name: "retry-after", Value: seconds}}
		return filter.Problem{Status: 429, Title: "Too Many Requests", Reason: "too-many", Headers: headers}.Send()
	}
	body, err := json.Marshal(map[string]string{"caller": caller})
	if err != nil {
		return filter.Continue, err
	}
	answer, err := filter.SendOne(500*time.Millisecond, filter.Outgoing{
		Method: "POST", URL: a.URL, Headers: []filter.Field{{Name: "content-type", Value: "application/json"}}, Body: body,
	})
	if err != nil {
		return filter.Continue, err
	}
	if answer.Status != 200 {
		return filter.Problem{Status: 403, Title: "Forbidden", Reason: "unknown-caller"}.Send()
	}
	var known struct {
		Account *int64 `json:"account"`
	}
	if err := json.Unmarshal(answer.Body, &known); err != nil {
		return filter.Continue, err
	}
	if known.Account == nil || *known.Account < 0 {
		return filter.Continue, errors.New("the service names no account")
	}
	return filter.Continue, request.SetHeader("x-account", fmt.Sprint(*known.Account))
}

func newAsk(config ask, _ *filter.Setup) (ask, error) {
	if config.URL == "" {
		return config, &filter.ConfigError{Key: "url", Message: "expected the URL of the service"}
	}
	if config.Amount == 0 {
		return config, &filter.ConfigError{Key: "amount", Message: "expected at least 1"}
	}
	return config, nil
}

func init() { filter.Export(newAsk) }

func main() {}
