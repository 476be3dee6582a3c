"""A double of the gateway, for tests without one: `python -m unittest`.

    from sluice_filter.testing import Exchange, make

    stamp = make(Stamp, {"header": "x-stamp", "value": "a"})
    exchange = Exchange()
    assert exchange.call(stamp.on_request) is None
    assert exchange.request_headers["x-stamp"] == "a"

It knows what filters of one hook need: messages, context, state, metrics, log and a key-value store. It grants everything.
"""

import sys
import types
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Optional

_current: list["Exchange"] = []


@dataclass
class Exchange:
    method: str = "GET"
    path: str = "/"
    query: Optional[str] = None
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

    def call(self, hook):
        """Calls a hook of a filter in this exchange. A problem that it returns or raises is drafted, too."""
        from . import Problem, Request, Response, Route

        about = {"select_upstream": Route, "on_complete": None}.get(hook.__name__, Response if "response" in hook.__name__ else Request)
        _current.append(self)
        try:
            try:
                answer = hook(*(() if about is None else (about(),)))
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
        "header": lambda name: headers().get(name.lower()),
        "header_values": lambda name: [headers()[name.lower()]] if name.lower() in headers() else [],
        "headers": lambda: [_Field(*each) for each in headers().items()],
        "set_header": lambda name, value: headers().__setitem__(name.lower(), value),
        "append_header": join,
        "remove_header": lambda name: headers().pop(name.lower(), None) and None,
        "want_body": lambda max_bytes: None,
        "body_length": lambda: len(body()),
        "body": lambda offset, length: body()[offset : offset + length],
        "set_body": lambda value: setattr(_current[-1], f"{which}_body", value),
    }


def _get(name):
    return lambda: getattr(_current[-1], name)


def _set(name):
    return lambda value: setattr(_current[-1], name, value)


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

    module("componentize_py_types", {"Err": Err})
    module("wit_world", {})
    module("wit_world.imports", {})
    case = lambda name: dataclass(type(name, (), {"__annotations__": {"value": Any}}))
    values = {name: case(name) for name in ["Value_Text", "Value_Integer", "Value_Float", "Value_Boolean", "Value_Texts", "Value_Json"]}

    def count(name, labels, delta):
        key = (name, *sorted((label.name, label.value) for label in labels))
        _current[-1].counted[key] = _current[-1].counted.get(key, 0) + delta

    class Level(Enum):
        TRACE, DEBUG, INFO, WARN, ERROR = range(5)

    nothing = lambda *values: None
    interfaces = {
        "types": {"Verdict": Enum("Verdict", {"CONTINUE": 0, "RESPOND": 1})},
        "interest": {name: nothing for name in ["hook", "request_body", "response_body", "needs"]},
        "request": _message("request")
        | {name: _get(name) for name in ["method", "path", "query"]}
        | {f"set_{name}": _set(name) for name in ["method", "path", "query"]}
        | {"scheme": lambda: "http", "authority": lambda: "localhost", "client_address": lambda: "127.0.0.1", "id": lambda: "test"},
        "response": _message("response")
        | {"status": _get("status"), "set_status": _set("status"), "set_reason": _set("reason")}
        | {"trailer": nothing, "set_trailer": nothing, "remove_trailer": nothing},
        "route": {"name": _get("route"), "param": lambda name: _current[-1].params.get(name)},
        "context": values
        | {
            "consumer": _get("consumer"),
            "set_consumer": _set("consumer"),
            "get": lambda key: _current[-1].context.get(key),
            "set": lambda key, value: _current[-1].context.__setitem__(key, value),
        },
        "state": {"get": _get("state"), "set": _set("state")},
        "metrics": {"Label": _Field, "count": count, "gauge": nothing, "observe": nothing},
        "log": {"Level": Level, "log": lambda _, line: _current[-1].lines.append(line), "fail": nothing},
        "kv": {
            "get": lambda space, key: _current[-1].kv.get((space, key)),
            "set": lambda space, key, value, _: _current[-1].kv.__setitem__((space, key), value),
            "delete": lambda space, key: _current[-1].kv.pop((space, key), None) is not None,
        },
        "secrets": {"get": lambda name: name},
        "clock": {"now_us": lambda: 0, "monotonic_ns": lambda: 0},
        "consumers": {"authenticate": lambda kind, credential: None, "plan": lambda: None, "label": lambda name: None},
    }
    for name, members in interfaces.items():
        module(f"wit_world.imports.{name}", members)


_install()
