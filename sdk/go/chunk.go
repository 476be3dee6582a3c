package filter

// The pieces of a body that streams: what the piece hooks see, and what they say of it.

// Chunk is a piece of a body, in OnRequestChunk and OnResponseChunk. It goes on as it is unless something else is said of it.
type Chunk struct{ piece }

// Hold keeps its last bytes back: they come again in front of the next piece. With Replace, the replacement stands for what is in front of them.
// Invalid for more bytes than there are, and in the last piece.
func (Chunk) Hold(tail int) error { return chunkHold(tail) }

// Event is an event of a body, in OnResponseEvent: a server-sent event or a line of NDJSON. It goes on as it is unless something else is said of it.
type Event struct{ piece }

// Name is the value of its last `event` field; present is false without one, and for a line.
func (Event) Name() (name string, present bool, err error) { return eventText("event-name") }

// ID is the value of its last `id` field.
func (Event) ID() (id string, present bool, err error) { return eventText("event-id") }

// Data is what it says: the values of its `data` fields with line feeds between them, or the line. It is not present in a comment, at the end of
// the body, and where it is not UTF-8.
func (Event) Data() (data string, present bool, err error) { return eventText("event-data") }

// SetData gives it other data and leaves the rest of it as it is.
func (Event) SetData(data string) error { return eventSetData(data) }

// What chunks and events have in common.
type piece struct{}

// Bytes is the whole piece, with what was kept back of the ones before it.
func (piece) Bytes() ([]byte, error) { return chunkBytes() }

// Length in bytes.
func (piece) Length() (uint64, error) { return chunkLength() }

// IsLast says whether the body ends with it. Each body that comes whole has one such piece, and it may be empty.
func (piece) IsLast() (bool, error) { return chunkIsLast() }

// Replace sends these bytes in its place; none drop it.
func (piece) Replace(bytes []byte) error { return chunkReplace(bytes) }

// End ends the body after it: what the sender still sends is discarded.
func (piece) End() error { return chunkEnd() }

// PassRest lets the rest of the body go on without further calls of this hook.
func (piece) PassRest() error { return chunkPassRest() }

// Request is that of the exchange. Its head has been sent: it can be read.
func (piece) Request() Request { return Request{} }

// Response is that of the exchange, in the hooks of the response. Its head has been sent: it can be read.
func (piece) Response() Response { return Response{} }
