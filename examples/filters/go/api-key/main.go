// Api-key admits callers with an API key of the config, and says who they are.
package main

import "sluice/filter"

type apiKey struct {
	Keys map[string]key `json:"keys"`
}

type key struct {
	Name    string `json:"name"`
	Account int64  `json:"account"`
}

func (a apiKey) OnRequest(request filter.Request) (filter.Verdict, error) {
	given, present, err := request.Header("x-api-key")
	if err != nil {
		return filter.Continue, err
	}
	if !present {
		return refuse("key-missing", "an API key is needed")
	}
	key, known := a.Keys[given]
	if !known {
		return refuse("key-unknown", "the API key is not valid")
	}
	if err := filter.SetConsumer(key.Name); err != nil {
		return filter.Continue, err
	}
	return filter.Continue, filter.SetContext("api-key.account", key.Account)
}

func refuse(reason, detail string) (filter.Verdict, error) {
	if err := filter.Count("refused", 1, filter.Label{Name: "reason", Value: reason}); err != nil {
		return filter.Continue, err
	}
	return filter.Problem{
		Status: 401, Title: "Unauthorized", Detail: detail, Reason: reason,
		Headers: []filter.Field{{Name: "www-authenticate", Value: "ApiKey"}},
	}.Send()
}

func newAPIKey(config apiKey, _ *filter.Setup) (apiKey, error) {
	if config.Keys == nil {
		return config, &filter.ConfigError{Key: "keys", Message: "expected a table of keys"}
	}
	return config, nil
}

func init() { filter.Export(newAPIKey) }

func main() {}
