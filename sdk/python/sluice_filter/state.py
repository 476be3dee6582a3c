"""What this filter keeps from one hook of the exchange to the next: anything that JSON can say, up to 64 KiB."""

import json

from wit_world.imports import state as host

from ._errors import checked


def get():
    value = checked("state.get", host.get)()
    return None if value is None else json.loads(bytes(value))


def set(value):
    checked("state.set", host.set)(json.dumps(value).encode())
