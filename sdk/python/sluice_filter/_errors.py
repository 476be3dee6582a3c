"""Errors as Python has them, with the gateway's reason in their text."""

import functools
import re


class GatewayError(Exception):
    """A call that the gateway has refused. Nothing has changed.

    `call` is the function (`request.set-header`), `kind` one of wrong-hook, not-granted, invalid, too-large, unavailable, timeout and other, and
    `reason` the gateway's; for too-large the limit.
    """

    def __init__(self, call, kind, reason=None):
        self.call, self.kind, self.reason = call, kind, reason
        why = "" if reason is None else f": the limit is {reason}" if kind == "too-large" else f": {reason}"
        super().__init__(f"{call}: {kind.replace('-', ' ')}{why}")


class ConfigError(Exception):
    """Refuses a config. The key is the path of the value: `limits[1].window`."""

    def __init__(self, key, message):
        super().__init__(f"{key}: {message}")


def checked(call, function):
    """The function, raising GatewayError in place of what the bindings raise."""
    from componentize_py_types import Err

    @functools.wraps(function)
    def run(*values):
        try:
            return function(*values)
        except Err as error:
            case = type(error.value).__name__.removeprefix("Error_")
            kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", case).lower()
            refused = GatewayError(call, kind, getattr(error.value, "value", None))
        raise refused

    return run
