"""The exchange: request, response, route, and answers."""

import json
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from wit_world.imports import request as host_request
from wit_world.imports import response as host_response
from wit_world.imports import route as host_route

from ._errors import checked


class Field(NamedTuple):
    name: str
    value: str


def _methods(interface, host, names):
    """Static methods for functions of the interface."""

    def bind(owner):
        for name in names:
            call = checked(f"{interface}.{name.replace('_', '-')}", getattr(host, name))
            setattr(owner, name, staticmethod(call))
        return owner

    return bind


MESSAGE = ["header", "header_values", "set_header", "append_header", "remove_header", "want_body"]


class _Message:
    """What request and response share: `header`, `header_values`, `set_header`, `append_header`, `remove_header`, `want_body`."""

    _host: object
    _name: str

    def _call(self, function, *values):
        return checked(f"{self._name}.{function.replace('_', '-')}", getattr(self._host, function))(*values)

    def headers(self) -> list[Field]:
        return [Field(each.name, each.value) for each in self._call("headers")]

    def body(self) -> bytes:
        return bytes(self._call("body", 0, self._call("body_length")))

    def json(self):
        """The body as JSON; a ValueError for what is none."""
        return json.loads(self.body().decode())

    def set_body(self, body):
        """Replaces the body by bytes or a text."""
        self._call("set_body", body.encode() if isinstance(body, str) else bytes(body))

    def set_json(self, value):
        self.set_body(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


@_methods("route", host_route, ["name", "param"])
class Route:
    """The route of the current exchange: `name()`, `param(name)`."""


@_methods("request", host_request, MESSAGE + ["method", "set_method", "scheme", "authority", "path", "set_path", "query", "set_query", "client_address", "id"])
class Request(_Message):
    """The request of the current exchange, with the functions of `request` in wit/."""

    _host, _name, route = host_request, "request", Route()


@_methods("response", host_response, MESSAGE + ["status", "set_status", "set_reason", "trailer", "set_trailer", "remove_trailer"])
class Response(_Message):
    """The response; in a request hook, the answer that "respond" sends."""

    _host, _name, request = host_response, "response", Request()


@dataclass
class Problem(Exception):
    """A problem document (RFC 9457). A hook that returns or raises it answers with it. The reason is for the operator."""

    status: int
    title: str
    detail: Optional[str] = None
    reason: Optional[str] = None
    headers: dict[str, str] = field(default_factory=dict)

    def draft(self):
        response = Response()
        response.set_status(self.status)
        response.set_header("content-type", "application/problem+json")
        document = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}
        document["request_id"] = Request.id()
        response.set_json({name: value for name, value in document.items() if value is not None})
        if self.reason is not None:
            response.set_reason(self.reason)
        for name, value in self.headers.items():
            response.set_header(name, value)
