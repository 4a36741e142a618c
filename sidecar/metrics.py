"""Numbers for Prometheus: counters, histograms and gauges, and their text form.

Strategy: a counter is a dictionary from label values to a number; gauges are read when someone asks, by
functions. One thread of trio uses them, so there are no locks.

Rules: label values come from our own code (route names, statuses), never from a request: a caller must not
be able to make series. Nothing secret is a label.

Spec: Prometheus text exposition format 0.0.4.

Kind: pure
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: a report takes a millisecond or two, a release some hundred, a throttled one many.
BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Labels = tuple[str, ...]
Gauge = Callable[[], Mapping[Labels, float]]


@dataclass(slots=True)
class _Family:
    """One metric: its help and label names."""

    help: str
    labels: Labels


@dataclass(slots=True)
class _Counter(_Family):
    values: dict[Labels, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Histogram(_Family):
    counts: dict[Labels, list[int]] = field(default_factory=dict)
    sums: dict[Labels, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Gauge(_Family):
    read: Gauge


class Metrics:
    """All metrics of a process, under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._families: dict[str, _Counter | _Histogram | _Gauge] = {}

    def counter(self, name: str, help: str, *labels: str) -> Callable[..., None]:
        """Declare a counter; the function adds one for its label values."""
        family = self._families[name] = _Counter(help, labels)

        def count(*values: str) -> None:
            family.values[values] = family.values.get(values, 0.0) + 1

        return count

    def histogram(self, name: str, help: str, *labels: str) -> Callable[..., None]:
        """Declare a histogram of seconds; the function takes a duration and the label values."""
        family = self._families[name] = _Histogram(help, labels)

        def observe(seconds: float, *values: str) -> None:
            counts = family.counts.setdefault(values, [0] * (len(BUCKETS) + 1))
            counts[bisect_left(BUCKETS, seconds)] += 1
            family.sums[values] = family.sums.get(values, 0.0) + seconds

        return observe

    def gauge(self, name: str, help: str, read: Gauge, *labels: str) -> None:
        """Declare a gauge or a counter kept elsewhere; `read` gives its values by label values."""
        self._families[name] = _Gauge(help, labels, read)

    def text(self) -> bytes:
        """Everything, for a scrape."""
        lines: list[str] = []
        for name, family in self._families.items():
            lines += self._lines(f"{self._prefix}_{name}", family)
        return ("\n".join(lines) + "\n").encode()

    def _lines(self, name: str, family: _Counter | _Histogram | _Gauge) -> list[str]:
        is_counter = isinstance(family, _Counter) or name.endswith("_total")
        kind = "histogram" if isinstance(family, _Histogram) else "counter" if is_counter else "gauge"
        lines = [f"# HELP {name} {family.help}", f"# TYPE {name} {kind}"]
        if isinstance(family, _Histogram):
            for values, counts in sorted(family.counts.items()):
                lines += _histogram_lines(name, family.labels, values, counts, family.sums[values])
            return lines
        found = family.read() if isinstance(family, _Gauge) else family.values
        return lines + [
            f"{name}{_labels(family.labels, values)} {_number(value)}"
            for values, value in sorted(found.items())
        ]


def _histogram_lines(name: str, names: Labels, values: Labels, counts: list[int], total: float) -> list[str]:
    lines: list[str] = []
    running = 0
    for bound, count in zip((*map(_number, BUCKETS), "+Inf"), counts, strict=True):
        running += count
        lines.append(f"{name}_bucket{_labels((*names, 'le'), (*values, bound))} {running}")
    lines.append(f"{name}_sum{_labels(names, values)} {_number(total)}")
    lines.append(f"{name}_count{_labels(names, values)} {running}")
    return lines


def _labels(names: Labels, values: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
