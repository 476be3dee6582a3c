"""Errors as Python has them, with the gateway's reason in their text."""

import functools
import re

from ._arguments import check, parameters
from ._text import sendable


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


def word(case):
    """A name of the interface, of that of its constant or class: `bad-signature` of BAD_SIGNATURE and BadSignature."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", case).lower().replace("_", "-")


def refusal(call, error):
    """The exception for an error of the interface."""
    case = type(error).__name__.removeprefix("Error_")
    return GatewayError(call, word(case), getattr(error, "value", None))


def checked(call, function, kinds=()):
    """The function, raising GatewayError in place of what the bindings raise, and TypeError for wrong arguments."""
    from componentize_py_types import Err  # type: ignore

    known = parameters(function, call, kinds)

    @functools.wraps(function)
    def run(*values):
        check(call, known, values)
        try:
            return function(*map(sendable, values))
        except Err as error:
            refused = refusal(call, error.value)
        raise refused

    return run
