// Redact hides members of JSON response bodies, by their names.
package main

import (
	"slices"

	"sluice/filter"
)

type redact struct {
	Fields []string `json:"fields"`
}

func (r redact) OnResponseBody(response filter.Response) (filter.Verdict, error) {
	body, err := response.Body()
	if err != nil {
		return filter.Continue, err
	}
	value, err := filter.ParseJSON(body)
	if err != nil {
		return filter.Problem{Status: 502, Title: "Bad Gateway", Detail: "the upstream's answer is not JSON", Reason: "not-json"}.Send()
	}
	r.hide(value)
	if body, err = filter.FormatJSON(value); err != nil {
		return filter.Continue, err
	}
	return filter.Continue, response.SetBody(body)
}

func (r redact) hide(value any) {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			r.hide(item)
		}
	case map[string]any:
		for name, member := range value {
			if slices.Contains(r.Fields, name) {
				value[name] = "[redacted]"
			} else {
				r.hide(member)
			}
		}
	}
}

func newRedact(config redact, setup *filter.Setup) (redact, error) {
	if config.Fields == nil {
		return config, &filter.ConfigError{Key: "fields", Message: "expected a list of names"}
	}
	return config, setup.ResponseBody(1<<20, "application/json")
}

func init() { filter.Export(newRedact) }

func main() {}
