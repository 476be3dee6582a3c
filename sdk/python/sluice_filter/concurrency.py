"""Limits of requests at the same time."""

from dataclasses import dataclass
from typing import Optional

from wit_world.imports import concurrency as host  # type: ignore

from ._arguments import records
from ._errors import checked
from .limiter import Limit, Standing, limits_of, standings

_enter = checked("concurrency.enter", host.enter)


@dataclass
class Place:
    """How many requests may hold a place of this key at the same time."""

    key: str
    amount: int


_check_places = records("places", Place)


@dataclass
class Admission:
    """`full` is the index of the first of the places that are all taken; None: the exchange has them."""

    full: Optional[int]
    standings: list[Standing]


def enter(places: list[Place], limits: Optional[list[Limit]] = None, cost: int = 1) -> Admission:
    """Takes a place of each for this exchange, and `cost` from each limit as `limiter.take` does; or nothing. The gateway gives the places back."""
    _check_places("concurrency.enter", places)
    of = limits_of("concurrency.enter", [] if limits is None else limits)
    answer = _enter([host.PlaceLimit(each.key, each.amount) for each in places], of, cost)
    return Admission(answer.full, standings(answer.standings))
