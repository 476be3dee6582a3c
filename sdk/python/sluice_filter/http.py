"""Calls to origins (`https://auth.example/check`, `grants.http`) and upstreams (`upstream://users/profile`, `grants.upstreams`).

A filter that imports this module, `kv_wait` or `passwords` may wait, and is called on a fiber.
"""

import json as _json
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Union

from componentize_py_types import Ok  # type: ignore
from wit_world.imports import http as host  # type: ignore
from wit_world.imports import types  # type: ignore

from ._arguments import records, wrong
from ._errors import GatewayError, checked, refusal
from ._json import loads
from ._message import Field

_send = checked("http.send", host.send)


@dataclass
class Outgoing:
    """A request: GET, or POST where it has a body and no method. `json` is a body, too."""

    url: str
    method: Optional[str] = None
    headers: Optional[Mapping[str, Union[str, list[str]]]] = None
    body: Union[bytes, str, None] = None
    json: Any = None


_check_requests = records("requests", Outgoing)


@dataclass
class Incoming:
    """A response."""

    status: int
    headers: list[Field]
    body: bytes

    def header(self, name: str) -> Optional[str]:
        """The first value of a header."""
        return next((field.value for field in self.headers if field.name == name.lower()), None)

    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return loads(self.body.decode())


def send(request: Union[Outgoing, str], timeout_ms: int) -> Incoming:
    """Sends a request, or one to this URL, and waits for its response. Raises a GatewayError where there is none."""
    answer = send_all([request], timeout_ms)[0]
    if isinstance(answer, GatewayError):
        raise answer
    return answer


def send_all(requests: list[Union[Outgoing, str]], timeout_ms: int) -> list[Union[Incoming, GatewayError]]:
    """Sends up to 16 requests at the same time and waits for all: the response of each, or its GatewayError."""
    if isinstance(requests, (list, tuple)):
        requests = [Outgoing(request) if isinstance(request, str) else request for request in requests]
    _check_requests("http.send", requests)
    return [_incoming(answer) for answer in _send([_outgoing(request) for request in requests], timeout_ms)]


def _outgoing(request):
    fields = []
    for name, values in (request.headers or {}).items():
        for value in [values] if isinstance(values, str) else values:
            if not (isinstance(name, str) and isinstance(value, str)):
                raise wrong("http.send: headers", "texts", {name: value})
            fields.append(types.Field(name.lower(), value))
    body = request.body
    if request.json is not None:
        body = _json.dumps(request.json, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
        if all(field.name != "content-type" for field in fields):
            fields.append(types.Field("content-type", "application/json"))
    if not isinstance(body, (bytes, bytearray, memoryview, str, type(None))):
        raise wrong("http.send: body", "bytes or a text", body)
    method = request.method or ("GET" if body is None else "POST")
    return host.Outgoing(method, request.url, fields, body.encode() if isinstance(body, str) else bytes(body or b""))


def _incoming(answer):
    if not isinstance(answer, Ok):
        return refusal("http.send", answer.value)
    response = answer.value
    return Incoming(response.status, [Field(each.name, each.value) for each in response.headers], bytes(response.body))
