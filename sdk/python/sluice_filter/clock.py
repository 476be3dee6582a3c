"""Time, under the control of the gateway."""

from wit_world.imports import clock as host  # type: ignore


def now() -> float:
    """Seconds since 1970."""
    return host.now_us() / 1e6


def monotonic_ns() -> int:
    return host.monotonic_ns()
