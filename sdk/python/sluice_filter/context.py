"""Facts that filters hand on within the exchange."""

import json

from wit_world.imports import context as host

from ._errors import checked

consumer = checked("context.consumer", host.consumer)
set_consumer = checked("context.set-consumer", host.set_consumer)


def get(key):
    """A str, int, float, bool, list of str, or what the JSON of another value is; None for none."""
    value = checked("context.get", host.get)(key)
    if value is None:
        return None
    return json.loads(value.value) if isinstance(value, host.Value_Json) else value.value


def set(key, value):
    """Leaves a fact for the filters after this one. A whole number beyond 64 bits, and what has no type of its own, becomes JSON."""
    checked("context.set", host.set)(key, _wrap(value))


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
