package filter

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

type pointed struct{ called bool }

func (p *pointed) OnRequest(Request) (Verdict, error) { p.called = true; return Continue, nil }

type otherType struct{}

func (otherType) OnResponse(Response) error { return nil }

type misspelt struct{}

func (misspelt) OnComplete() error                    { return nil }
func (misspelt) OnResponce(Response) (Verdict, error) { return Continue, nil }

type unasked struct{}

func (unasked) OnResponseBody(Response) (Verdict, error) { return Continue, nil }

type wanting struct{ unasked }

func (wanting) OnRequest(Request) (Verdict, error) { return Continue, nil }

type panicking struct{}

func (panicking) OnRequest(Request) (Verdict, error) {
	var none map[string]int
	none["x"] = 1
	return Continue, nil
}

func refused[F any](made F, err error) string {
	Export(func(struct{}, *Setup) (F, error) { return made, err })
	if _, err := (&Exchange{}).Configure("{}"); err != nil {
		return err.Error()
	}
	return ""
}

func TestWhatIsNoHookIsRefused(t *testing.T) {
	for _, each := range []struct{ said, expected string }{
		{refused(pointed{}, nil), ""},
		{refused(&pointed{}, nil), ""},
		{refused(wanting{}, nil), ""},
		{refused[any](wanting{}, nil), ""},
		{refused(otherType{}, nil), "expected OnResponse(Response) (Verdict, error)"},
		{refused(misspelt{}, nil), "OnResponce is no hook"},
		{refused(unasked{}, nil), "OnResponseBody is never called: ask for bodies by Setup.ResponseBody"},
		{refused(struct{}{}, nil), "the filter has no hook"},
		{refused[*pointed](nil, nil), "neither a filter nor an error"},
		{refused[any](nil, nil), "neither a filter nor an error"},
	} {
		if !strings.Contains(each.said, each.expected) || (each.said == "") != (each.expected == "") {
			t.Errorf("%q, expected %q", each.said, each.expected)
		}
	}
}

func TestAHookWithAPointerForItsReceiverIsCalled(t *testing.T) {
	Export(func(struct{}, *Setup) (pointed, error) { return pointed{}, nil })
	made, err := (&Exchange{}).Configure("{}")
	if onRequest(); err != nil || !made.(*pointed).called {
		t.Errorf("%v: %+v", err, made)
	}
}

func TestAPanicHasItsPlace(t *testing.T) {
	exchange := &Exchange{}
	Export(func(struct{}, *Setup) (panicking, error) { return panicking{}, nil })
	_, err := exchange.Configure("{}")
	onRequest()
	if err != nil || len(exchange.Lines) != 1 || !strings.Contains(exchange.Lines[0], "assignment to entry in nil map") {
		t.Errorf("%v: %q", err, exchange.Lines)
	}
}

func TestTheDoubleIsAsTheGateway(t *testing.T) {
	exchange := (&Exchange{Path: "/a?b=c", Authority: "Shop.example:8080", RequestHeaders: map[string]string{"Host": "x", "X-Up": "1"}}).In()
	request := Request{}
	path, _ := request.Path()
	query, _, _ := request.Query()
	authority, _ := request.Authority()
	for given, expected := range map[string]string{"a.example": "a.example", "a.example:1": "a.example", "[::1]:8080": "[::1]", "[::1]": "[::1]"} {
		exchange.Authority = given
		if host, _ := request.Host(); host != expected {
			t.Errorf("%s: %s", given, host)
		}
	}
	_, host, _ := request.Header("host")
	up, _, _ := request.Header("X-Up")
	if path != "/a" || query != "b=c" || authority != "shop.example:8080" || host || up != "1" {
		t.Errorf("%q %q %q %v %q", path, query, authority, host, up)
	}
	if err := request.SetPath("/d"); err != nil || exchange.Path != "/d?b=c" {
		t.Errorf("%v: %q", err, exchange.Path)
	}
}

func TestAWrongValueIsSaidInTheWordsOfAConfig(t *testing.T) {
	type config struct {
		Amount uint64   `json:"amount"`
		Words  []string `json:"words"`
	}
	Export(func(config, *Setup) (*pointed, error) { return &pointed{}, nil })
	for text, expected := range map[string]string{
		`{"amount": -1}`:   "amount: expected a whole number that is not negative, found number -1",
		`{"words": "one"}`: "words: expected a list, found string",
		`{"word": []}`:     "word: unknown key",
	} {
		if _, err := (&Exchange{}).Configure(text); err == nil || err.Error() != expected {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestAProblemWithoutADetailHasNone(t *testing.T) {
	exchange := (&Exchange{}).In()
	verdict, err := Problem{Status: 403, Title: "Forbidden"}.Send()
	if verdict != Respond || err != nil || strings.Contains(string(exchange.ResponseBody), "detail") {
		t.Errorf("%v, %v: %s", verdict, err, exchange.ResponseBody)
	}
}

func TestAPartOfAFactIsOfItsKind(t *testing.T) {
	claims := json.RawMessage(`{"roles":["a","b"],"sub":"ann","n":7,"most":18446744073709551615,"half":0.5,"deep":{"list":[1,"<"]},"none":null}`)
	(&Exchange{Context: map[string]any{"claims": claims, "text": "x"}}).In()
	for _, each := range []struct{ path, expected string }{
		{"claims/roles", "[]string [a b]"},
		{"claims/sub", "string ann"},
		{"claims/n", "int64 7"},
		{"claims/most", "JSON 18446744073709551615"},
		{"claims/half", "float64 0.5"},
		{"claims/deep", `JSON {"list":[1,"<"]}`},
		{"claims/deep/list", `JSON [1,"<"]`},
		{"claims/none", "<nil> <nil>"},
		{"claims/roles/x", "<nil> <nil>"},
		{"text/x", "<nil> <nil>"},
		{"text", "string x"},
		{"other", "<nil> <nil>"},
	} {
		parts := strings.Split(each.path, "/")
		part, err := ContextPath(parts[0], parts[1:]...)
		said := fmt.Sprintf("%T %v", part, part)
		if text, is := part.(json.RawMessage); is {
			said = fmt.Sprintf("JSON %s", text)
		}
		if said != each.expected || err != nil {
			t.Errorf("%s: %s, %v", each.path, said, err)
		}
	}
}
