"""The check of a config."""

from typing import Any

from ._errors import ConfigError

NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def check(value: Any, shape: Any, path: str = "") -> Any:
    """Checks a config against a shape and returns it: `{"header": str, "fields": [str], "keys": {"*": {"name": str}}, "realm?": str}`.

    A list of one shape is a list of such values, the member `*` stands for any name, and `?` for a member that may be missing.
    """
    if isinstance(shape, type):
        kinds = (int, float) if shape is float else shape
        if not isinstance(value, kinds) or (isinstance(value, bool) and shape is not bool):
            raise ConfigError(path, f"expected {NAMES[shape]}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ConfigError(path, "expected a list")
        for at, item in enumerate(value):
            check(item, shape[0], f"{path}[{at}]")
    else:
        if not isinstance(value, dict):
            raise ConfigError(path, "expected a table")
        key = (lambda name: f"{path}.{name}") if path else (lambda name: name)
        members = {name.removesuffix("?"): member for name, member in shape.items()}
        for name, member in value.items():
            known = members.get(name, members.get("*"))
            if known is None:
                raise ConfigError(key(name), "unknown key")
            check(member, known, key(name))
        for name in shape:
            if name != "*" and not name.endswith("?") and name not in value:
                raise ConfigError(key(name), "is needed")
    return value
