"""The exchange: request, response, route, and answers.

An attribute with a type is a function of the interface of that name, in wit/.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, NamedTuple, Optional, Union, get_args

from wit_world.imports import request as host_request  # type: ignore
from wit_world.imports import response as host_response  # type: ignore
from wit_world.imports import route as host_route  # type: ignore

from ._errors import checked
from ._json import loads


class Field(NamedTuple):
    name: str
    value: str


def _functions(interface, host):
    """Gives a class the functions of the interface that it has declared; those with an underscore are behind its methods."""

    def bind(owner):
        declared = {name: kind for of in owner.__mro__ for name, kind in getattr(of, "__annotations__", {}).items()}
        for name, kind in declared.items():
            function = name.removeprefix("_")
            # In an error, the name that the filter knows: that of the method.
            known = function.removesuffix("_length").replace("_", "-")
            setattr(owner, name, staticmethod(checked(f"{interface}.{known}", getattr(host, function), get_args(kind)[0])))
        return owner

    return bind


class _Message:
    """What request and response share."""

    #: The first value of a header.
    header: Callable[[str], Optional[str]]
    header_values: Callable[[str], list[str]]
    #: For values that are not UTF-8.
    header_bytes: Callable[[str], list[bytes]]
    set_header: Callable[[str, str], None]
    set_header_bytes: Callable[[str, bytes], None]
    append_header: Callable[[str, str], None]
    remove_header: Callable[[str], None]
    #: Asks for the body of this one message, up to so many bytes.
    want_body: Callable[[int], None]

    _headers: Callable[[], list]
    _body: Callable[[int, int], bytes]
    _body_length: Callable[[], int]
    _set_body: Callable[[bytes], None]

    def headers(self) -> list[Field]:
        return [Field(each.name, each.value) for each in self._headers()]

    def body(self) -> bytes:
        return bytes(self._body(0, self._body_length()))

    def json(self) -> Any:
        """The body as JSON; a ValueError for what is none, or is nested deeper than 256."""
        return loads(self.body().decode())

    def set_body(self, body: Union[bytes, str]) -> None:
        """Replaces the body by bytes or a text."""
        self._set_body(body.encode() if isinstance(body, str) else bytes(body))

    def set_json(self, value: Any) -> None:
        # JSON has a way to write surrogates, which is Python's, too.
        self.set_body(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace"))


@_functions("route", host_route)
class Route:
    """The route of the current exchange, and the choice of an upstream in `select_upstream`."""

    name: Callable[[], str]
    #: The value of a `{param}` of the path pattern.
    param: Callable[[str], Optional[str]]
    upstreams: Callable[[], list[str]]
    #: Each with upstream, address, weight, healthy, active and latency_us.
    endpoints: Callable[[], list]
    #: Of an upstream's name, an address and the label's name.
    endpoint_label: Callable[[str, str, str], Optional[str]]
    #: Of an upstream's name and an address: with out, requests and ewma_us.
    state_of_endpoint: Callable[[str, str], Any]
    #: Each with upstream, address, kind, reason, status and sent.
    failed_attempts: Callable[[], list]
    #: With attempt, left and budget.
    retries: Callable[[], Any]
    choose_upstream: Callable[[str], None]
    choose_endpoints: Callable[[list[str]], None]
    hash_key: Callable[[str], None]
    no_retry: Callable[[], None]

    _summary: Callable[[], str]

    def summary(self) -> dict[str, Any]:
        """The finished exchange, with the members of the access log: in `on_complete`."""
        return json.loads(self._summary())


@_functions("request", host_request)
class Request(_Message):
    """The request of the current exchange."""

    method: Callable[[], str]
    set_method: Callable[[str], None]
    scheme: Callable[[], str]
    authority: Callable[[], str]
    path: Callable[[], str]
    set_path: Callable[[str], None]
    query: Callable[[], Optional[str]]
    set_query: Callable[[Optional[str]], None]
    #: HTTP/1.0, HTTP/1.1 or HTTP/2.
    protocol: Callable[[], str]
    client_address: Callable[[], str]
    id: Callable[[], str]

    _client_certificate: Callable[[], Optional[str]]

    route = Route()

    def client_certificate(self) -> Optional[dict[str, Any]]:
        """The verified certificate of the client: subject, issuer, sha256, dns_names and more."""
        text = self._client_certificate()
        return None if text is None else json.loads(text)


@_functions("response", host_response)
class Response(_Message):
    """The response; in a request hook, the answer that "respond" sends."""

    status: Callable[[], int]
    set_status: Callable[[int], None]
    #: Why, for the operator: in the access log and a metric.
    set_reason: Callable[[str], None]
    #: What the cache of the route has done: hit, miss and so on.
    cache_status: Callable[[], Optional[str]]
    trailer: Callable[[str], Optional[str]]
    set_trailer: Callable[[str, str], None]
    remove_trailer: Callable[[str], None]

    _origin: Callable[[], Any]
    _trailers: Callable[[], list]

    request = Request()

    def origin(self) -> str:
        """Who made it: upstream, filter or gateway."""
        return self._origin().name.lower()

    def trailers(self) -> list[Field]:
        return [Field(each.name, each.value) for each in self._trailers()]


@dataclass
class Problem(Exception):
    """A problem document (RFC 9457). A hook that returns or raises it answers with it. The reason is for the operator."""

    status: int
    title: str
    detail: Optional[str] = None
    reason: Optional[str] = None
    headers: Mapping[str, Union[str, int]] = field(default_factory=dict)
    #: A URI that names the kind of problem.
    type: str = "about:blank"
    #: Further members of the document.
    members: Mapping[str, Any] = field(default_factory=dict)

    def draft(self) -> None:
        """Makes it the response of this exchange."""
        response = Response()
        response.set_status(self.status)
        response.set_header("content-type", "application/problem+json")
        document = {**self.members, "type": self.type, "title": self.title, "status": self.status, "detail": self.detail}
        document["request_id"] = Request.id()
        response.set_json({name: value for name, value in document.items() if value is not None})
        if self.reason is not None:
            response.set_reason(self.reason)
        for name, value in self.headers.items():
            response.set_header(name, str(value))
