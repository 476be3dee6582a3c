"""Secrets that were granted."""

from wit_world.imports import secrets as host  # type: ignore

from ._errors import checked

_get = checked("secrets.get", host.get)


def get(name: str) -> str:
    """Raises a GatewayError for one that was not granted (`grants.secrets`)."""
    return _get(name)
