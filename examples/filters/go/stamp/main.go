// Stamp sets a request header to a value of the config.
package main

import (
	"sluice/filter"
)

type stamp struct {
	Header string `json:"header"`
	Value  string `json:"value"`
}

func (s stamp) OnRequest(request filter.Request) (filter.Verdict, error) {
	return filter.Continue, request.SetHeader(s.Header, s.Value)
}

func newStamp(config stamp, _ *filter.Setup) (stamp, error) {
	switch {
	case config.Header == "":
		return config, &filter.ConfigError{Key: "header", Message: "expected the name of a header"}
	case config.Value == "":
		return config, &filter.ConfigError{Key: "value", Message: "expected a text"}
	}
	return config, nil
}

func init() { filter.Export(newStamp) }

func main() {}
