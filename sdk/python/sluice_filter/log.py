"""The gateway's log."""

from wit_world.imports import log as host


def _line(level):
    def line(message):
        host.log(host.Level[level], str(message))

    return line


debug, info, warn, error = _line("DEBUG"), _line("INFO"), _line("WARN"), _line("ERROR")
