"""The check of arguments. The runtime ends the instance where a value of another type is handed over, so calls are checked before."""

import typing

NAMES = {str: "a text", bytes: "bytes", int: "a whole number from 0", float: "a number", bool: "True or False", list: "a list of texts"}
# The interface has numbers of 64 bits but for these, by call or record.
BITS = {
    "response.set-status": {"status": 16},
    "random.bytes": {"length": 32},
    "kv-wait.wait": {"timeout_ms": 32},
    "http.send": {"timeout_ms": 32},
    "Place": {"amount": 32},
    "crypto.token-verifier": {"remember": 32},
}


def parameters(function, call, kinds=()):
    """Name, type, whether it may be None, and bits, for each parameter. Functions of the double have no types, but may have been declared with some."""
    annotations = {name: kind for name, kind in getattr(function, "__annotations__", {}).items() if name != "return"}
    annotations = annotations or {f"argument {at}": kind for at, kind in enumerate(kinds, 1)}
    return [(name, *_kind(kind), BITS.get(call, {}).get(name, 64)) for name, kind in annotations.items()]


def _kind(annotation):
    options = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Union else (annotation,)
    plain = [option for option in options if option is not type(None)]
    kind = plain[0] if len(plain) == 1 else None
    if typing.get_origin(kind) is list and typing.get_args(kind) == (str,):
        kind = list
    return (kind if kind in NAMES else None), len(plain) < len(options)


def check(call, parameters, values, within=""):
    """Raises a TypeError that names the wrong argument."""
    for (name, kind, is_optional, bits), value in zip(parameters, values):
        if kind is None or (is_optional and value is None) or _fits(kind, value):
            if kind is not int or value is None or 0 <= value < 1 << bits:
                continue
        raise wrong(f"{call}: {within}{name}", NAMES[kind], value)


def records(name, record):
    """A check of an argument that is a list of these records: it raises a TypeError that names the wrong member."""
    members = parameters(record, record.__name__)

    def run(call, values):
        if not isinstance(values, (list, tuple)):
            raise wrong(f"{call}: {name}", "a list", values)
        for at, value in enumerate(values):
            if not isinstance(value, record):
                raise wrong(f"{call}: {name}[{at}]", record.__name__, value)
            check(call, members, [getattr(value, member) for member, *_ in members], f"{name}[{at}].")

    return run


def _fits(kind, value):
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, kind)


def wrong(place, expected, value):
    return TypeError(f"{place}: expected {expected}, got {shown(value)}")


def shown(value):
    """A value, shortly, for messages."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"
