"""The filter's own metrics."""

from wit_world.imports import metrics as host

from ._errors import checked


def _labels(labels):
    return [host.Label(name, str(value)) for name, value in labels.items()]


def count(name, delta=1, **labels):
    """Adds to a counter: `count("refused", reason="key-missing")`."""
    checked("metrics.count", host.count)(name, _labels(labels), delta)


def gauge(name, value, **labels):
    checked("metrics.gauge", host.gauge)(name, _labels(labels), value)


def observe(name, value, **labels):
    checked("metrics.observe", host.observe)(name, _labels(labels), value)
