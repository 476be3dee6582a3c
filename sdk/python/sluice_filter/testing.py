"""A double of the gateway, for tests without one: `python -m unittest`.

    from sluice_filter.testing import Exchange, make

    stamp = make(Stamp, {"header": "x-stamp", "value": "a"})
    exchange = Exchange()
    assert exchange.call(stamp.on_request) is None
    assert exchange.request_headers["x-stamp"] == "a"

It knows what most filters need: messages, pieces and events, context, state, metrics, log, a key-value store, limits, and calls to services that the
test answers. It grants everything.
"""

import hashlib
import hmac
import json
import os
import sys
import types
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Callable, Iterable, Optional, Union
from urllib.parse import urlsplit

from . import _pieces

_current: list["Exchange"] = []


@dataclass
class Exchange:
    method: str = "GET"
    path: str = "/"
    query: Optional[str] = None
    #: The host that the client has asked for.
    authority: str = "localhost"
    request_headers: dict[str, str] = field(default_factory=dict)
    request_body: bytes = b""
    status: int = 200
    response_headers: dict[str, str] = field(default_factory=dict)
    response_body: bytes = b""
    route: str = "test"
    params: dict[str, str] = field(default_factory=dict)
    consumer: Optional[str] = None
    context: dict[str, Any] = field(default_factory=dict)
    state: Optional[bytes] = None
    reason: Optional[str] = None
    counted: dict[tuple, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    kv: dict[tuple[str, str], bytes] = field(default_factory=dict)
    #: What answers calls of `http`, by origin (`https://auth.example`, `upstream://users`): a function of method, path, headers and body, which
    #: answers a status, headers and a body.
    services: dict[str, Callable] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    piece: Optional[_pieces.Piece] = None

    def chunks(self, hook, pieces: Iterable[Union[bytes, str]]) -> list[bytes]:
        """Sends pieces of a body through a hook, and the end of the body after them. Answers what went on at each call."""
        pieces = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
        return _pieces.stream(self, pieces, None, lambda: self.call(hook))

    def events(self, hook, body: Union[bytes, str]) -> list[bytes]:
        """The same for the events of a body, which the content type of the response divides: server-sent ones, or lines."""
        body = body.encode() if isinstance(body, str) else body
        is_lines = "text/event-stream" not in self.response_headers.get("content-type", "")
        return _pieces.stream(self, _pieces.events(body, is_lines), is_lines, lambda: self.call(hook))

    def call(self, hook):
        """Calls a hook of a filter in this exchange. A problem that it returns or raises is drafted, too."""
        from . import Problem
        from ._entry import given_to

        _current.append(self)
        try:
            try:
                answer = hook(*given_to(hook.__name__))
            except Problem as problem:
                answer = problem
            if isinstance(answer, Problem):
                answer.draft()
            return answer
        finally:
            _current.pop()


def make(filter_class, config):
    """A filter with this config."""
    from . import Setup

    return filter_class(config, Setup())


@dataclass
class _Field:
    name: str
    value: str


def _message(which):
    headers = lambda: getattr(_current[-1], f"{which}_headers")
    body = lambda: getattr(_current[-1], f"{which}_body")
    join = lambda name, value: headers().__setitem__(name.lower(), ", ".join(filter(None, [headers().get(name.lower()), value])))
    return {
        # `host` is never shown.
        "header": lambda name: headers().get(name.lower()) if name.lower() != "host" else None,
        "header_values": lambda name: [headers()[name.lower()]] if name.lower() in headers() else [],
        "headers": lambda: [_Field(*each) for each in headers().items()],
        "set_header": lambda name, value: headers().__setitem__(name.lower(), value),
        "append_header": join,
        "remove_header": lambda name: headers().pop(name.lower(), None) and None,
        "want_body": lambda max_bytes: None,
        "body_length": lambda: len(body()),
        "body": lambda offset, length: body()[offset : offset + length],
        "set_body": lambda value: setattr(_current[-1], f"{which}_body", value),
        "header_bytes": lambda name: [headers()[name.lower()].encode()] if name.lower() in headers() else [],
        "set_header_bytes": lambda name, value: headers().__setitem__(name.lower(), value.decode("latin-1")),
    }


def _get(name):
    return lambda: getattr(_current[-1], name)


def _set(name):
    return lambda value: setattr(_current[-1], name, value)


def _take(limits, cost):
    """How limits stand, on a clock that stands still."""
    taken = _current[-1].taken
    allowed = [taken.get(limit.key, 0) + cost <= limit.amount for limit in limits]
    if all(allowed):
        for limit in limits:
            taken[limit.key] = taken.get(limit.key, 0) + cost
    left = [max(limit.amount - taken.get(limit.key, 0), 0) for limit in limits]
    return [_Standing(one, rest, limit.window_ms, 0 if one else limit.window_ms) for one, rest, limit in zip(allowed, left, limits)]


def _enter(places, limits, cost):
    of = [types.SimpleNamespace(key=f"place {place.key}", amount=place.amount, window_ms=0) for place in places]
    full = next((at for at, standing in enumerate(_take(of, 0)) if standing.remaining < 1), None)
    if full is not None:
        return types.SimpleNamespace(full=full, standings=[])
    standings = _take(limits, cost)
    if all(standing.allowed for standing in standings):
        _take(of, 1)
    return types.SimpleNamespace(full=None, standings=standings)


def _compare_and_swap(space, key, expected, value, _):
    same = _current[-1].kv.get((space, key)) == expected
    if same:
        _current[-1].kv[(space, key)] = value
    return same


@dataclass
class _Standing:
    allowed: bool
    remaining: int
    reset_ms: int
    retry_after_ms: int


def _install():
    """Puts the modules of the bindings in place, unless the real ones are there."""
    if "wit_world" in sys.modules:
        return

    class Err(Exception):
        def __init__(self, value):
            self.value = value

    def module(name, members):
        made = types.ModuleType(name)
        made.__dict__.update(members)
        made.__path__ = []
        sys.modules[name] = made
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, made)

    class Ok:
        def __init__(self, value):
            self.value = value

    module("componentize_py_types", {"Err": Err, "Ok": Ok})
    module("wit_world", {})
    module("wit_world.imports", {})
    case = lambda name: dataclass(type(name, (), {"__annotations__": {"value": Any}}))
    values = {name: case(name) for name in ["Value_Text", "Value_Integer", "Value_Float", "Value_Boolean", "Value_Texts", "Value_Json"]}

    def count(name, labels, delta):
        key = (name, *sorted((label.name, label.value) for label in labels))
        _current[-1].counted[key] = _current[-1].counted.get(key, 0) + delta

    class Level(Enum):
        TRACE, DEBUG, INFO, WARN, ERROR = range(5)

    errors = {
        name: case(f"Error_{name}") for name in ["WrongHook", "NotGranted", "Invalid", "TooLarge", "Unavailable", "Timeout", "Other"]
    }

    def send(requests, _):
        def one(request):
            url = urlsplit(request.url)
            service = _current[-1].services.get(f"{url.scheme}://{url.netloc}")
            if service is None:
                return Err(errors["NotGranted"](request.url))
            path = url.path + (f"?{url.query}" if url.query else "")
            status, headers, body = service(request.method, path, {each.name: each.value for each in request.headers}, request.body)
            fields = [_Field(*each) for each in headers.items()]
            return Ok(types.SimpleNamespace(status=status, headers=fields, body=body.encode() if isinstance(body, str) else body))

        return [one(request) for request in requests]

    def refuse(kind, reason):
        raise Err(errors[kind](reason))

    def record(name, *members):
        return dataclass(type(name, (), {"__annotations__": {member: Any for member in members}}))

    found, reserved = case("Reservation_Found"), type("Reservation_Reserved", (), {})

    def get_or_reserve(space, key, _):
        value = _current[-1].kv.get((space, key))
        return reserved() if value is None else found(value)

    def get_path(key, path):
        value = _current[-1].context.get(key)
        part = json.loads(value.value) if isinstance(value, values["Value_Json"]) else None
        for name in path:
            part = part.get(name) if isinstance(part, dict) else None
        return None if part is None else values["Value_Text"](part) if isinstance(part, str) else values["Value_Json"](json.dumps(part))

    def absent(name):
        return lambda *values: refuse("Other", f"the double of the gateway has no {name}")

    nothing = lambda *values: None
    interfaces = {
        "types": {"Verdict": Enum("Verdict", {"CONTINUE": 0, "RESPOND": 1}), "Field": _Field}
        | {f"Error_{name}": error for name, error in errors.items()},
        "interest": {
            name: nothing
            for name in ["hook", "request_body", "response_body", "request_chunks", "response_chunks", "response_events", "needs"]
        },
        "chunk": _pieces.functions(lambda: _current[-1].piece, refuse),
        "request": _message("request")
        | {name: _get(name) for name in ["method", "path", "query"]}
        | {f"set_{name}": _set(name) for name in ["method", "path", "query"]}
        | {"scheme": lambda: "http", "authority": _get("authority"), "client_address": lambda: "127.0.0.1", "id": lambda: "test"}
        | {"protocol": lambda: "HTTP/1.1", "client_certificate": nothing},
        "response": _message("response")
        | {"status": _get("status"), "set_status": _set("status"), "set_reason": _set("reason")}
        | {"trailer": nothing, "trailers": lambda: [], "set_trailer": nothing, "remove_trailer": nothing, "cache_status": nothing}
        | {"origin": lambda: Enum("Source", "UPSTREAM FILTER GATEWAY").UPSTREAM},
        "route": {"name": _get("route"), "param": lambda name: _current[-1].params.get(name), "upstreams": lambda: []}
        | {name: lambda: [] for name in ["endpoints", "failed_attempts"]}
        | {name: absent(f"route.{name}") for name in ["endpoint_label", "state_of_endpoint", "retries", "summary"]}
        | {name: nothing for name in ["choose_upstream", "choose_endpoints", "hash_key", "no_retry"]},
        "context": values
        | {
            "consumer": _get("consumer"),
            "set_consumer": _set("consumer"),
            "get": lambda key: _current[-1].context.get(key),
            "get_path": lambda key, path: get_path(key, path),
            "writer": lambda key: "test" if key in _current[-1].context else None,
            "set": lambda key, value: _current[-1].context.__setitem__(key, value),
        },
        "state": {"get": _get("state"), "set": _set("state")},
        "metrics": {"Label": _Field, "count": count, "gauge": nothing, "observe": nothing},
        "log": {"Level": Level, "log": lambda level, line: _current[-1].lines.append(f"{level.name.lower()}: {line}"), "fail": nothing},
        "kv": {
            "get": lambda space, key: _current[-1].kv.get((space, key)),
            "set": lambda space, key, value, _: _current[-1].kv.__setitem__((space, key), value),
            "delete": lambda space, key: _current[-1].kv.pop((space, key), None) is not None,
            "compare_and_swap": _compare_and_swap,
            "get_or_reserve": get_or_reserve,
        },
        "kv_wait": {"wait": lambda space, key, _: _current[-1].kv.get((space, key))},
        "limiter": {
            "Algorithm": Enum("Algorithm", "TOKEN_BUCKET LEAKY_BUCKET FIXED_WINDOW SLIDING_WINDOW"),
            "Limit": record("Limit", "key", "algorithm", "amount", "window_ms", "burst"),
            "take": _take,
        },
        "concurrency": {"PlaceLimit": record("PlaceLimit", "key", "amount"), "enter": _enter},
        "http": {"Outgoing": record("Outgoing", "method", "url", "headers", "body"), "send": send},
        "passwords": {"authenticate": nothing},
        "cache": {name: nothing for name in ["set_key_part", "add_tag", "set_freshness", "no_store"]},
        "random": {"bytes": os.urandom},
        "crypto": {
            "hash": lambda algorithm, data: hashlib.new(algorithm.replace("-", ""), data).digest(),
            "hmac": lambda algorithm, key, data: hmac.new(key, data, algorithm.replace("-", "")).digest(),
            "equal": hmac.compare_digest,
            "TokenRules": record("TokenRules", "key_set", "algorithms", "typ", "remember"),
        }
        | {name: absent(f"crypto.{name}") for name in ["key_set", "verify", "sign", "token_verifier", "verify_token", "verify_bearer"]},
        "secrets": {"get": lambda name: name},
        "clock": {"now_us": lambda: 0, "monotonic_ns": lambda: 0},
        "consumers": {name: nothing for name in ["authenticate", "recall_password", "plan", "label", "method"]}
        | {"vouch": lambda name, method: False, "known": lambda: False, "labels": lambda: []}
        | {"ConsumerTokenRules": record("ConsumerTokenRules", "algorithms", "typ")}
        | {name: absent(f"consumers.{name}") for name in ["token_verifier", "verify_token"]},
    }
    for name, members in interfaces.items():
        module(f"wit_world.imports.{name}", members)


_install()
