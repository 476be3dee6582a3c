package filter

import "time"

// CacheKeyPart says that requests with another value have other stored responses, in the cache of the route.
func CacheKeyPart(name, value string) error { return cacheSetKeyPart(name, value) }

// CacheTag says that the response can be purged by this tag.
func CacheTag(tag string) error { return cacheAddTag(tag) }

// Freshness of a stored response, in place of what it says itself.
type Freshness struct {
	TTL time.Duration
	// StaleWhileRevalidate and StaleIfError are how long after that it may be sent while another one is fetched, or in place of an error; 0: what
	// the response says.
	StaleWhileRevalidate, StaleIfError time.Duration
}

// CacheFreshness says how long the response is fresh.
func CacheFreshness(freshness Freshness) error { return cacheSetFreshness(freshness) }

// CacheNoStore says that the response is not stored.
func CacheNoStore() error { return cacheNoStore() }
