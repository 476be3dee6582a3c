"""Filters for the Sluice gateway.

A filter is a subclass of `Filter` with some of the methods of the hooks. An exception of a hook undoes the edits of the call; its text goes to the
gateway's log, and the filter's failure policy decides. The services of the gateway are modules of this package (`context`, `metrics`, `kv`, …):
a component imports those that its filter imports.
"""

try:
    import wit_world
except ImportError:
    # No component, so a test or a build: the double of the gateway is in its place.
    from . import testing

# A component finds only what was imported while it was built: nothing is imported later.
import json

from wit_world.imports import interest

from ._check import check
from ._errors import ConfigError, GatewayError, checked
from ._message import Field, Problem, Request, Response, Route

__all__ = ["ConfigError", "Field", "Filter", "GatewayError", "Problem", "Request", "Response", "Route", "Setup", "check"]


class Filter:
    """What a filter may have, besides `__init__(self, config, setup)`:

    `on_request(request)`, `on_request_body(request)`, `on_response(response)` and `on_response_body(response)`, which return a `Problem` to answer
    with it, "respond" to answer with the response as drafted, or nothing; `select_upstream(route)`, `on_response_trailers(response)` and
    `on_complete()`.
    """

    def __init__(self, config, setup):
        check(config, {})


class Setup:
    """What a filter can ask for while it is made."""

    def request_body(self, max_bytes: int, types=()):
        """Asks for request bodies of these media types (none: all), for `on_request_body`."""
        self._call("request-body", lambda host: host.request_body(max_bytes, list(types)))

    def response_body(self, max_bytes: int, types=()):
        self._call("response-body", lambda host: host.response_body(max_bytes, list(types)))

    def hook(self, name: str, wanted: bool):
        """Turns a hook off or on again, by the name of its interface: "on-response"."""
        self._call("hook", lambda host: host.hook(name, wanted))

    def needs(self, grants: dict):
        """Says what this config needs to have been granted, shaped like the table `grants`."""
        self._call("needs", lambda host: host.needs(json.dumps(grants)))

    def _call(self, name, call):
        checked(f"interest.{name}", call)(interest)
