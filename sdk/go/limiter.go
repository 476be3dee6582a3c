package filter

import "time"

// Algorithm of a limit.
type Algorithm uint8

const (
	// TokenBucket has Amount tokens, refilled evenly over Window.
	TokenBucket Algorithm = iota
	// LeakyBucket is the even rate, with Burst on top.
	LeakyBucket
	// FixedWindow allows Amount in each window, counted from the Unix epoch.
	FixedWindow
	// SlidingWindow allows Amount in the last Window.
	SlidingWindow
)

// Limit of a rate. Limits with the same key, algorithm, amount and window share a counter, in all workers.
type Limit struct {
	// Key has at most 1,024 bytes: hash or cap what a caller can make long.
	Key       string
	Algorithm Algorithm
	Amount    uint64
	// Window has whole milliseconds, 1 ms to 366 days.
	Window time.Duration
	// Burst is what may be taken at once beyond the even rate; 0 means Amount for a token bucket.
	Burst uint64
}

// Standing is how a limit stands after a decision.
type Standing struct {
	// Allowed says whether this limit would have allowed it by itself.
	Allowed   bool
	Remaining uint64
	// Reset is the time until the whole amount is there again.
	Reset time.Duration
	// RetryAfter is the time until a call with this cost could pass; 0 when it is allowed.
	RetryAfter time.Duration
}

// Take takes a cost from every limit, or from none if one of them would not allow it; a cost of 0 only looks. At most 16 limits. One standing for
// each, in their order.
func Take(cost uint64, limits ...Limit) ([]Standing, error) { return limiterTake(limits, cost) }

// Allowed says whether all limits allow it.
func Allowed(standings []Standing) bool {
	for _, standing := range standings {
		if !standing.Allowed {
			return false
		}
	}
	return true
}

// PlaceLimit is a limit of requests at the same time, 1 to 100,000. Limits with the same key count the same requests.
type PlaceLimit struct {
	Key    string
	Amount uint32
}

// Admission is what became of Enter.
type Admission struct {
	// Full is the index of the first place limit whose places are all taken, or -1.
	Full int
	// Standings of the limits of a rate; none if a place limit is full.
	Standings []Standing
}

// Admitted says whether the places and the cost were taken.
func (a Admission) Admitted() bool { return a.Full < 0 && Allowed(a.Standings) }

// Enter takes a place of each of the places for this exchange, and a cost from each limit; or nothing, if one of them would not allow it. The gateway
// gives the places back when the exchange has ended, however it ends.
func Enter(places []PlaceLimit, cost uint64, limits ...Limit) (Admission, error) {
	return concurrencyEnter(places, limits, cost)
}
