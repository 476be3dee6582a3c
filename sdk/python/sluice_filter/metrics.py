"""The filter's own metrics: the gateway shows them as `sluice_filter_NAME`, with a label `filter`. In cases they have the bare name."""

from wit_world.imports import metrics as host  # type: ignore

from ._errors import checked


_count, _gauge, _observe = (checked(f"metrics.{name}", getattr(host, name)) for name in ["count", "gauge", "observe"])


def _labels(labels):
    return [host.Label(name, str(value)) for name, value in labels.items()]


def count(name: str, delta: int = 1, **labels: object) -> None:
    """Adds to a counter: `count("refused", reason="key-missing")`."""
    _count(name, _labels(labels), delta)


def gauge(name: str, value: float, **labels: object) -> None:
    _gauge(name, _labels(labels), value)


def observe(name: str, value: float, **labels: object) -> None:
    """Adds a value to a histogram."""
    _observe(name, _labels(labels), value)
