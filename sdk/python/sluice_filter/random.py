"""Randomness from the operating system; the module `random` of Python repeats itself in a component."""

from wit_world.imports import random as host  # type: ignore

from ._errors import checked

_bytes = checked("random.bytes", host.bytes)


def token_bytes(length: int) -> bytes:
    """Random bytes, up to 64 KiB, fit for secrets."""
    return _bytes(length)
