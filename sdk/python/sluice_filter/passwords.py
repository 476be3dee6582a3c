"""Passwords of consumers."""

from typing import Optional, Union

from wit_world.imports import passwords as host  # type: ignore

from ._errors import checked

_authenticate = checked("passwords.authenticate", host.authenticate)


def authenticate(username: str, password: Union[str, bytes]) -> Optional[str]:
    """Makes the consumer with this user name and password the caller, and answers its name; None for a wrong one."""
    return _authenticate(username, password.encode() if isinstance(password, str) else password)
