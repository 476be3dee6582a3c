"""The callers that the operator knows."""

from wit_world.imports import consumers as host

from ._errors import checked

authenticate = checked("consumers.authenticate", host.authenticate)
plan = checked("consumers.plan", host.plan)
label = checked("consumers.label", host.label)
