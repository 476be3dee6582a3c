"""What the cache of the route should know."""

from typing import Optional

from wit_world.imports import cache as host  # type: ignore

from ._errors import checked

_set_key_part = checked("cache.set-key-part", host.set_key_part)
_add_tag = checked("cache.add-tag", host.add_tag)
_set_freshness = checked("cache.set-freshness", host.set_freshness)
_no_store = checked("cache.no-store", host.no_store)


def set_key_part(name: str, value: str) -> None:
    """Requests with another value have other stored responses."""
    _set_key_part(name, value)


def add_tag(tag: str) -> None:
    """The response can be purged by this tag."""
    _add_tag(tag)


def set_freshness(ttl_ms: int, stale_while_revalidate_ms: Optional[int] = None, stale_if_error_ms: Optional[int] = None) -> None:
    """How long the response may be used, in place of what it says itself."""
    _set_freshness(ttl_ms, stale_while_revalidate_ms, stale_if_error_ms)


def no_store() -> None:
    """The response is not stored."""
    _no_store()
