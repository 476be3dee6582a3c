"""The check of arguments. The runtime ends the instance where a value of another type is handed over, so calls are checked before."""

import typing

NAMES = {str: "a text", bytes: "bytes", int: "a whole number from 0", float: "a number", bool: "True or False", list: "a list of texts"}
# The interface has numbers of 64 bits but for these.
BITS = {"status": 16, "timeout_ms": 32, "length": 32}


def parameters(function, kinds=()):
    """Name, type and whether it may be None, for each parameter. Functions of the double have no types, but may have been declared with some."""
    annotations = {name: kind for name, kind in getattr(function, "__annotations__", {}).items() if name != "return"}
    annotations = annotations or {f"argument {at}": kind for at, kind in enumerate(kinds, 1)}
    return [(name, *_kind(kind)) for name, kind in annotations.items()]


def _kind(annotation):
    options = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Union else (annotation,)
    plain = [option for option in options if option is not type(None)]
    kind = plain[0] if len(plain) == 1 else None
    if typing.get_origin(kind) is list and typing.get_args(kind) == (str,):
        kind = list
    return (kind if kind in NAMES else None), len(plain) < len(options)


def check(call, parameters, values):
    """Raises a TypeError that names the wrong argument."""
    for (name, kind, is_optional), value in zip(parameters, values):
        if kind is None or (is_optional and value is None) or _fits(kind, value):
            if kind is not int or value is None or 0 <= value < 1 << BITS.get(name, 64):
                continue
        raise TypeError(f"{call}: {name}: expected {NAMES[kind]}, got {shown(value)}")


def _fits(kind, value):
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, kind)


def shown(value):
    """A value, shortly, for messages."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"
