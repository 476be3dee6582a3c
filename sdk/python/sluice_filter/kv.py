"""The key-value store. Values are bytes."""

from typing import Optional, Union

from wit_world.imports import kv as host  # type: ignore

from ._errors import checked

_get, _set, _delete = checked("kv.get", host.get), checked("kv.set", host.set), checked("kv.delete", host.delete)
_compare_and_swap = checked("kv.compare-and-swap", host.compare_and_swap)
_get_or_reserve = checked("kv.get-or-reserve", host.get_or_reserve)

RESERVED, PENDING = "reserved", "pending"


def get(space: str, key: str) -> Optional[bytes]:
    return _get(space, key)


def set(space: str, key: str, value: bytes, ttl_ms: Optional[int] = None) -> None:
    _set(space, key, value, ttl_ms)


def delete(space: str, key: str) -> bool:
    """Answers whether there was one."""
    return _delete(space, key)


def compare_and_swap(space: str, key: str, expected: Optional[bytes], value: bytes, ttl_ms: Optional[int] = None) -> bool:
    """Sets a value if the present one is `expected` (None: if there is none), and answers whether it did."""
    return _compare_and_swap(space, key, expected, value, ttl_ms)


def get_or_reserve(space: str, key: str, ttl_ms: int) -> Union[bytes, str]:
    """The value; or RESERVED for the one caller who should set it, and PENDING for others: see `kv_wait`."""
    answer = _get_or_reserve(space, key, ttl_ms)
    case = type(answer).__name__.rpartition("_")[2].lower()
    return bytes(answer.value) if case == "found" else case
