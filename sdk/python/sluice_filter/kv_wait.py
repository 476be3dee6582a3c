"""Waits for what another caller makes for `kv`."""

from typing import Optional

from wit_world.imports import kv_wait as host  # type: ignore

from ._errors import checked

_wait = checked("kv-wait.wait", host.wait)


def wait(space: str, key: str, timeout_ms: int) -> Optional[bytes]:
    """Waits as long as somebody holds the reservation of a key, at most so many milliseconds: the value, if there is one then."""
    return _wait(space, key, timeout_ms)
