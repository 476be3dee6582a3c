"""Texts that UTF-8 can hold. The runtime ends the instance where another one is handed over, and JSON of others may have such texts."""

import dataclasses
import re

SURROGATES = re.compile("[\ud800-\udfff]")


def sendable(value):
    """The value of an argument, with U+FFFD in place of surrogates in its texts."""
    if isinstance(value, str):
        return value if value.isascii() else SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [sendable(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {name: sendable(member) for name, member in vars(value).items() if isinstance(member, (str, list))}
        return dataclasses.replace(value, **members) if members else value
    return value
