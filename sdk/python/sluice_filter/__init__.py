"""Filters for the Sluice gateway.

A filter is a subclass of `Filter` with some of the methods of the hooks. An exception of a hook undoes the edits of the call; its text goes to the
gateway's log, and the filter's failure policy decides. The services of the gateway are modules of this package (`context`, `metrics`, `kv`, …):
a component imports those that its filter imports.
"""

try:
    import wit_world  # type: ignore
except ImportError:
    # No component, so a test or a build: the double of the gateway is in its place.
    from . import testing

# A component finds only what was imported while it was built: nothing is imported later.
import json
from typing import TYPE_CHECKING, Any, Sequence

from wit_world.imports import interest  # type: ignore

from ._check import check
from ._errors import ConfigError, GatewayError, checked
from ._message import Field, Problem, Request, Response, Route

if TYPE_CHECKING:
    from .chunk import Chunk, Event

__all__ = ["Chunk", "ConfigError", "Event", "Field", "Filter", "GatewayError", "Problem", "Request", "Response", "Route", "Setup", "check"]


def __getattr__(name: str) -> Any:
    # Only a component whose filter has a hook of pieces has the module.
    if name in ("Chunk", "Event"):
        from . import chunk

        return getattr(chunk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Filter:
    """What a filter may have, besides `__init__(self, config, setup)`:

    `on_request(request)`, `on_request_body(request)`, `on_response(response)` and `on_response_body(response)`, which return a `Problem` to answer
    with it, "respond" to answer with the response as drafted, or nothing; `select_upstream(route)`, `on_response_trailers(response)` and
    `on_complete()`; and `on_request_chunk(chunk)`, `on_response_chunk(chunk)` and `on_response_event(event)` for bodies that stream.
    """

    def __init__(self, config: Any, setup: "Setup"):
        check(config, {})


class Setup:
    """What a filter can ask for while it is made."""

    def request_body(self, max_bytes: int, types: Sequence[str] = ()) -> None:
        """Asks for request bodies of these media types (none: all), up to so many bytes, for `on_request_body`.

        Types are `application/json`, `text/*` or `application/*+json`. The hook is called for no empty body.
        """
        self._call("request-body", lambda host: host.request_body(max_bytes, list(types)))

    def response_body(self, max_bytes: int, types: Sequence[str] = ()) -> None:
        """The same for responses, for `on_response_body`."""
        self._call("response-body", lambda host: host.response_body(max_bytes, list(types)))

    def request_chunks(self, types: Sequence[str] = ()) -> None:
        """Asks for request bodies of these media types (none: all) piece by piece, for `on_request_chunk`."""
        self._call("request-chunks", lambda host: host.request_chunks(list(types)))

    def response_chunks(self, types: Sequence[str] = ()) -> None:
        """The same for responses, for `on_response_chunk`."""
        self._call("response-chunks", lambda host: host.response_chunks(list(types)))

    def response_events(self, types: Sequence[str] = ()) -> None:
        """Asks for responses event by event, for `on_response_event`. None: those of `text/event-stream` and NDJSON."""
        self._call("response-events", lambda host: host.response_events(list(types)))

    def hook(self, name: str, wanted: bool) -> None:
        """Turns a hook that the class has off or on again: "on_response"."""
        self._call("hook", lambda host: host.hook(name.replace("_", "-"), wanted))

    def needs(self, grants: dict[str, Any]) -> None:
        """Says what this config needs to have been granted, shaped like the table `grants`."""
        self._call("needs", lambda host: host.needs(json.dumps(grants)))

    def _call(self, name, call):
        checked(f"interest.{name}", call)(interest)
