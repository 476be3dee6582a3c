"""Facts that filters hand on within the exchange."""

import json
from typing import Any, Optional

from wit_world.imports import context as host  # type: ignore

from ._errors import checked

_get, _set = checked("context.get", host.get), checked("context.set", host.set)
_get_path, _writer = checked("context.get-path", host.get_path), checked("context.writer", host.writer)
_consumer, _set_consumer = checked("context.consumer", host.consumer), checked("context.set-consumer", host.set_consumer)


def consumer() -> Optional[str]:
    """The authenticated caller, if a filter has found one."""
    return _consumer()


def set_consumer(name: str) -> None:
    """Says who the caller is."""
    _set_consumer(name)


def get(key: str) -> Any:
    """A str, int, float, bool, list of str, or what the JSON of another value is; None for none."""
    return _unwrap(_get(key))


def get_path(key: str, path: list[str]) -> Any:
    """A part of a JSON value, by the names of the members: `get_path("auth.claims", ["realm_access", "roles"])`."""
    return _unwrap(_get_path(key, path))


def writer(key: str) -> Optional[str]:
    """The name of the filter that has set a key."""
    return _writer(key)


def _unwrap(value):
    if value is None:
        return None
    return json.loads(value.value) if isinstance(value, host.Value_Json) else value.value


def set(key: str, value: Any) -> None:
    """Leaves a fact for the filters after this one. A whole number beyond 64 bits, and what has no type of its own, becomes JSON."""
    _set(key, _wrap(value))


def _wrap(value):
    if isinstance(value, bool):
        return host.Value_Boolean(value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return host.Value_Integer(value)
    if isinstance(value, float):
        return host.Value_Float(value)
    if isinstance(value, str):
        return host.Value_Text(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return host.Value_Texts(value)
    return host.Value_Json(json.dumps(value))
