"""The key-value store. Values are bytes."""

from typing import Optional

from wit_world.imports import kv as host

from ._errors import checked

get = checked("kv.get", host.get)
delete = checked("kv.delete", host.delete)


def set(space: str, key: str, value: bytes, ttl_ms: Optional[int] = None):
    checked("kv.set", host.set)(space, key, value, ttl_ms)
