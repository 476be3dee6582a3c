// Mask hides a word in texts and in server-sent events while they stream.
package main

import (
	"bytes"

	"sluice/filter"
)

type mask struct {
	Word string `json:"word"`
}

func (m mask) OnRequestChunk(chunk filter.Chunk) error  { return m.chunk(chunk) }
func (m mask) OnResponseChunk(chunk filter.Chunk) error { return m.chunk(chunk) }

// Data that is not UTF-8 is not present: then the word is hidden wherever it is in the event.
func (m mask) OnResponseEvent(event filter.Event) error {
	data, present, err := event.Data()
	masked := []byte(data)
	if err == nil && !present {
		masked, err = event.Bytes()
	}
	if err != nil || m.hide(masked) == 0 {
		return err
	}
	if !present {
		return event.Replace(masked)
	}
	return event.SetData(string(masked))
}

// The network may have split the word: what may be its beginning is kept back until the next piece comes.
func (m mask) chunk(chunk filter.Chunk) error {
	piece, err := chunk.Bytes()
	if err != nil {
		return err
	}
	last, err := chunk.IsLast()
	if err != nil {
		return err
	}
	tail := 0
	if end := m.hide(piece); !last {
		tail = min(len(m.Word)-1, len(piece)-end)
	}
	if err := chunk.Hold(tail); err != nil {
		return err
	}
	return chunk.Replace(piece[:len(piece)-tail])
}

// hide masks the word wherever it is, and answers where the last one ends.
func (m mask) hide(text []byte) (end int) {
	for {
		at := bytes.Index(text[end:], []byte(m.Word))
		if at < 0 {
			return end
		}
		end += at + copy(text[end+at:], bytes.Repeat([]byte("*"), len(m.Word)))
	}
}

func newMask(config mask, setup *filter.Setup) (mask, error) {
	if config.Word == "" {
		return config, &filter.ConfigError{Key: "word", Message: "expected a word"}
	}
	if err := setup.RequestChunks("text/plain"); err != nil {
		return config, err
	}
	if err := setup.ResponseChunks("text/plain"); err != nil {
		return config, err
	}
	return config, setup.ResponseEvents("text/event-stream")
}

func init() { filter.Export(newMask) }

func main() {}
