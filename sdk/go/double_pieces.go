//go:build !wasip1

package filter

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// The piece that a hook is called with, and what it says of it.
type pieceDouble struct {
	bytes             []byte
	last, event, line bool
	replaced          *[]byte
	held              int
	ended, passed     bool
}

// RequestChunks sends these pieces of a request's body through a hook, and the end of the body after them. It answers what went on at each call.
func (e *Exchange) RequestChunks(filter OnRequestChunker, pieces ...string) ([]string, error) {
	return e.stream(func() error { return filter.OnRequestChunk(Chunk{}) }, pieces, pieceDouble{})
}

// ResponseChunks sends these pieces of a response's body through a hook, and the end of the body after them. It answers what went on at each call.
func (e *Exchange) ResponseChunks(filter OnResponseChunker, pieces ...string) ([]string, error) {
	return e.stream(func() error { return filter.OnResponseChunk(Chunk{}) }, pieces, pieceDouble{})
}

// ResponseEvents sends these events through a hook, and the end of the body after them. An event has its end: a blank line, or that of a line where
// the response's content type is neither missing nor `text/event-stream`. It answers what went on at each call.
func (e *Exchange) ResponseEvents(filter OnResponseEventer, events ...string) ([]string, error) {
	kind := e.ResponseHeaders["content-type"]
	line := kind != "" && !strings.HasPrefix(kind, "text/event-stream")
	return e.stream(func() error { return filter.OnResponseEvent(Event{}) }, events, pieceDouble{event: true, line: line})
}

func (e *Exchange) stream(hook func() error, pieces []string, kind pieceDouble) ([]string, error) {
	e.In()
	defer func() { e.piece = pieceDouble{} }()
	var sent []string
	kept := ""
	for i, piece := range append(pieces[:len(pieces):len(pieces)], "") {
		e.piece = kind
		e.piece.bytes, e.piece.last = []byte(kept+piece), i == len(pieces)
		if err := hook(); err != nil {
			return sent, err
		}
		front := e.piece.bytes[:len(e.piece.bytes)-e.piece.held]
		kept = string(e.piece.bytes[len(front):])
		if e.piece.replaced != nil {
			front = *e.piece.replaced
		}
		sent = append(sent, string(front))
		if e.piece.ended {
			break
		}
		if e.piece.passed {
			if rest := kept + strings.Join(pieces[min(i+1, len(pieces)):], ""); rest != "" {
				sent = append(sent, rest)
			}
			break
		}
	}
	return sent, nil
}

func chunkLength() (uint64, error) { return uint64(len(current.piece.bytes)), nil }
func chunkBytes() ([]byte, error)  { return append([]byte(nil), current.piece.bytes...), nil }
func chunkIsLast() (bool, error)   { return current.piece.last, nil }
func chunkReplace(bytes []byte) error {
	copied := append([]byte{}, bytes...)
	current.piece.replaced = &copied
	return nil
}
func chunkHold(tail int) error {
	if tail < 0 || tail > len(current.piece.bytes) || tail > 0 && current.piece.last {
		return &Error{Call: "chunk.hold", Kind: Invalid, Reason: fmt.Sprintf("can't keep %d bytes back", tail)}
	}
	current.piece.held = tail
	return nil
}
func chunkEnd() error      { current.piece.ended = true; return nil }
func chunkPassRest() error { current.piece.passed = true; return nil }

func eventText(which string) (string, bool, error) {
	if !current.piece.event {
		return "", false, &Error{Call: "chunk." + which, Kind: WrongHook}
	}
	if current.piece.line {
		line := strings.TrimRight(string(current.piece.bytes), "\r\n")
		return present(line, which == "event-data" && len(current.piece.bytes) > 0)
	}
	var values []string
	for _, line := range eventLines() {
		if name, value, _ := strings.Cut(line, ":"); "event-"+name == which {
			values = append(values, strings.TrimPrefix(value, " "))
		}
	}
	if len(values) == 0 {
		return "", false, nil
	}
	if which == "event-data" {
		return present(strings.Join(values, "\n"), true)
	}
	return present(values[len(values)-1], true)
}

// What is not UTF-8 is no text.
func present(text string, present bool) (string, bool, error) {
	if !present || !utf8.ValidString(text) {
		return "", false, nil
	}
	return text, true, nil
}

func eventSetData(data string) error {
	if !current.piece.event {
		return &Error{Call: "chunk.set-event-data", Kind: WrongHook}
	}
	if current.piece.line {
		return chunkReplace([]byte(data + "\n"))
	}
	var lines []string
	for _, line := range eventLines() {
		if name, _, _ := strings.Cut(line, ":"); name != "data" {
			lines = append(lines, line)
		}
	}
	for _, line := range strings.Split(data, "\n") {
		lines = append(lines, "data: "+line)
	}
	return chunkReplace([]byte(strings.Join(lines, "\n") + "\n\n"))
}

func eventLines() []string {
	lines := strings.Split(strings.ReplaceAll(string(current.piece.bytes), "\r\n", "\n"), "\n")
	kept := lines[:0]
	for _, line := range lines {
		if line != "" {
			kept = append(kept, line)
		}
	}
	return kept
}
