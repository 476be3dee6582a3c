"""The gateway's log."""

from wit_world.imports import log as host  # type: ignore

from ._text import sendable


def debug(message: object) -> None:
    _write("DEBUG", message)


def info(message: object) -> None:
    _write("INFO", message)


def warn(message: object) -> None:
    _write("WARN", message)


def error(message: object) -> None:
    _write("ERROR", message)


def _write(level, message):
    host.log(host.Level[level], sendable(str(message)))
