package filter

import (
	"errors"
	"time"
)

// What may wait: a component that uses one of these functions is called on a fiber, which costs about 0.3 µs a call.

// Outgoing is a request to another service: of a granted origin (`https://auth.example/check`), or of a granted upstream
// (`upstream://users/profile`). Redirects are not followed.
type Outgoing struct {
	// Method is GET where it is empty.
	Method  string
	URL     string
	Headers []Field
	Body    []byte
}

// Incoming is an answer.
type Incoming struct {
	Status  uint16
	Headers []Field
	Body    []byte
	// Err is what befell this request; the rest is then empty.
	Err error
}

// Send sends the requests at the same time, at most 16, and waits for all. The answers are in the order of the requests.
func Send(timeout time.Duration, requests ...Outgoing) ([]Incoming, error) {
	sent := make([]Outgoing, len(requests))
	for i, request := range requests {
		if request.Method == "" {
			request.Method = "GET"
		}
		sent[i] = request
	}
	return httpSend(sent, milliseconds(timeout))
}

// SendOne sends one request. What befell it is the error.
func SendOne(timeout time.Duration, request Outgoing) (Incoming, error) {
	answers, err := Send(timeout, request)
	if err != nil {
		return Incoming{}, err
	}
	if len(answers) != 1 {
		return Incoming{}, errors.New("http.send: no answer")
	}
	return answers[0], answers[0].Err
}

// KVWait waits as long as another caller holds the reservation of a key (KVGetOrReserve), and answers the value; nil where there is none then.
func KVWait(space, key string, timeout time.Duration) ([]byte, error) {
	return kvWait(space, key, milliseconds(timeout))
}

// AuthenticatePassword makes the consumer with this user name and password the caller, and answers its name; present is false for a wrong password
// and for a name that nobody has.
func AuthenticatePassword(username string, password []byte) (name string, present bool, err error) {
	return passwordsAuthenticate(username, password)
}

// Less than a millisecond is one, and what the interface can't say is the longest.
func milliseconds(duration time.Duration) uint32 {
	const longest = 1<<32 - 1
	rounded := (duration + time.Millisecond - 1) / time.Millisecond
	return uint32(max(0, min(rounded, longest)))
}
