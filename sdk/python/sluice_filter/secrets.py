"""Secrets that were granted."""

from wit_world.imports import secrets as host

from ._errors import checked

get = checked("secrets.get", host.get)
