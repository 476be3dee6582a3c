"""Atomic decisions of rate limits, shared by all workers."""

from dataclasses import dataclass

from wit_world.imports import limiter as host  # type: ignore

from ._arguments import records
from ._errors import checked

_take = checked("limiter.take", host.take)


@dataclass
class Limit:
    """Limits with the same key (at most 1,024 bytes), algorithm, amount and window share a counter.

    Algorithms are token-bucket, leaky-bucket, fixed-window and sliding-window.
    """

    key: str
    amount: int
    window_ms: int
    algorithm: str = "token-bucket"
    burst: int = 0


_check_limits = records("limits", Limit)


@dataclass
class Standing:
    """How one limit stands after the decision."""

    allowed: bool
    remaining: int
    reset_ms: int
    retry_after_ms: int


def take(limits: list[Limit], cost: int = 1) -> list[Standing]:
    """Takes `cost` from every limit, or from none if one of them would not allow it: how each stands after that, in their order."""
    return standings(_take(limits_of("limiter.take", limits), cost))


def limits_of(call, limits):
    _check_limits(call, limits)
    names = {name.lower().replace("_", "-"): value for name, value in host.Algorithm.__members__.items()}
    for limit in limits:
        if limit.algorithm not in names:
            raise ValueError(f"algorithm: expected one of {', '.join(names)}")
    return [host.Limit(each.key, names[each.algorithm], each.amount, each.window_ms, each.burst) for each in limits]


def standings(answers):
    return [Standing(each.allowed, each.remaining, each.reset_ms, each.retry_after_ms) for each in answers]
