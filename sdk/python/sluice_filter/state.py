"""What this filter keeps from one hook of the exchange to the next: anything that JSON can say, up to 64 KiB."""

import json
from typing import Any

from wit_world.imports import state as host  # type: ignore

from ._errors import checked

_get, _set = checked("state.get", host.get), checked("state.set", host.set)


def get() -> Any:
    """What was set, or None."""
    value = _get()
    return None if value is None else json.loads(bytes(value))


def set(value: Any) -> None:
    _set(json.dumps(value).encode())
