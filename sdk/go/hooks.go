package filter

import (
	"fmt"
	"path"
	"reflect"
	"runtime"
	"slices"
	"strings"
)

// A hook, and whether a filter has it.
type hook struct {
	name string
	// The method as it has to be, and whether there is one of its name.
	method string
	named  bool
	has    bool
	// A hook for bodies is called only for those that were asked for: by this function of Setup, or in one of these hooks by WantBody.
	asks  string
	wants []string
}

func hookOf[Interface any](made any, named bool, name, method string) hook {
	_, has := made.(Interface)
	return hook{name: name, method: method, named: named, has: has}
}

func (h hook) asked(asks string, wants ...string) hook {
	h.asks, h.wants = asks, wants
	return h
}

// The methods are looked up by constants: the linker leaves out the methods of all other names then.
func hooks(made any) []hook {
	of := reflect.TypeOf(made)
	is := func(_ reflect.Method, is bool) bool { return is }
	return []hook{
		hookOf[OnRequester](made, is(of.MethodByName("OnRequest")), "on-request", "OnRequest(Request) (Verdict, error)"),
		hookOf[OnRequestBodier](made, is(of.MethodByName("OnRequestBody")), "on-request-body", "OnRequestBody(Request) (Verdict, error)").
			asked("RequestBody", "on-request"),
		hookOf[UpstreamSelector](made, is(of.MethodByName("SelectUpstream")), "select-upstream", "SelectUpstream(Route) error"),
		hookOf[OnRequestChunker](made, is(of.MethodByName("OnRequestChunk")), "on-request-chunk", "OnRequestChunk(Chunk) error").
			asked("RequestChunks"),
		hookOf[OnResponder](made, is(of.MethodByName("OnResponse")), "on-response", "OnResponse(Response) (Verdict, error)"),
		hookOf[OnResponseBodier](made, is(of.MethodByName("OnResponseBody")), "on-response-body", "OnResponseBody(Response) (Verdict, error)").
			asked("ResponseBody", "on-request", "on-request-body", "on-response"),
		hookOf[OnResponseChunker](made, is(of.MethodByName("OnResponseChunk")), "on-response-chunk", "OnResponseChunk(Chunk) error").
			asked("ResponseChunks"),
		hookOf[OnResponseEventer](made, is(of.MethodByName("OnResponseEvent")), "on-response-event", "OnResponseEvent(Event) error").
			asked("ResponseEvents"),
		hookOf[OnResponseTrailerser](made, is(of.MethodByName("OnResponseTrailers")), "on-response-trailers", "OnResponseTrailers(Response) error"),
		hookOf[OnCompleter](made, is(of.MethodByName("OnComplete")), "on-complete", "OnComplete() error"),
	}
}

// checked is the filter, or a pointer to it where its hooks have that for their receiver.
func checked(made, pointer any, setup *Setup) (any, error) {
	value := reflect.ValueOf(made)
	if !value.IsValid() || value.Kind() == reflect.Pointer && value.IsNil() {
		return nil, fmt.Errorf("neither a filter nor an error was returned")
	}
	if value.Kind() != reflect.Pointer && reflect.TypeOf(pointer).Elem().Kind() != reflect.Interface {
		made = pointer
	}
	all := hooks(made)
	if name := misnamed(made, all); name != "" {
		return nil, fmt.Errorf("%s is no hook: expected one of %s", name, names(all))
	}
	if !slices.ContainsFunc(all, func(h hook) bool { return h.named }) {
		return nil, fmt.Errorf("the filter has no hook: expected a method of %s", names(all))
	}
	for _, h := range all {
		if h.named != h.has {
			return nil, fmt.Errorf("a hook is of another type: expected %s", h.method)
		}
		wanted := slices.ContainsFunc(all, func(other hook) bool { return other.has && slices.Contains(h.wants, other.name) })
		if h.has && h.asks != "" && !setup.asked[h.name] && !wanted {
			return nil, fmt.Errorf("%s is never called: ask for bodies by Setup.%s", h.short(), h.asks)
		}
	}
	return made, nil
}

func (h hook) short() string {
	name, _, _ := strings.Cut(h.method, "(")
	return name
}

func names(all []hook) string {
	names := make([]string, 0, len(all))
	for _, h := range all {
		names = append(names, h.short())
	}
	return strings.Join(names, ", ")
}

// panicked says what has happened, and where in the filter. For a deferred function.
func panicked(cause any) string {
	said := fmt.Sprintf("panic: %v", cause)
	stack := make([]uintptr, 32)
	frames := runtime.CallersFrames(stack[:runtime.Callers(1, stack)])
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "runtime.") && !strings.HasPrefix(frame.Function, "sluice/filter.") {
			if frame.File != "" {
				said += fmt.Sprintf(" (%s:%d)", path.Base(frame.File), frame.Line)
			}
			return said
		}
		if !more {
			return said
		}
	}
}
