"""What `encfs bench` found, as values, as a table and as JSON.

Kind: pure
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from encfs.errors import StoreError


@dataclass(frozen=True, slots=True)
class Measure:
    """One workload: `value` in `unit`; latencies in microseconds where requests were timed one by one."""

    name: str
    unit: str
    value: float
    median_us: float | None = None
    p99_us: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All measures of one image.

    Attributes:
        image: its path or address.
        size: of the plaintext device in bytes.
        sector_size: of the segment in bytes.
        engine: which AES-XTS engine the driver used.
        through: `driver` (the plaintext device) or `file system` (a scratch file in the mounted volume).
        measures: in the order they were taken.
    """

    image: str
    size: int
    sector_size: int
    engine: str
    through: str
    measures: tuple[Measure, ...]


def parse_measures(output: str) -> tuple[Measure, ...]:
    """The lines that the workload process printed.

    Raises:
        StoreError: it printed something else.
    """
    try:
        return tuple(Measure(**json.loads(line)) for line in output.splitlines())
    except (ValueError, TypeError) as exc:
        raise StoreError("bench: the workload process printed what is no measure") from exc


def to_json(report: Report) -> str:
    """Everything, for programs."""
    return json.dumps(asdict(report), indent=1)


def to_table(report: Report) -> str:
    """Everything, for people."""
    lines = [
        f"{report.image}: {report.size >> 20} MiB, sectors of {report.sector_size} bytes, "
        f"AES-XTS engine {report.engine}, measured through the {report.through}",
        f"{'':32}{'':>20}{'median':>12}{'99 %':>12}",
    ]
    for m in report.measures:
        value = f"{m.value:,.0f} {m.unit}"
        lines.append(f"{m.name:32}{value:>20}{_latency(m.median_us):>12}{_latency(m.p99_us):>12}".rstrip())
    return "\n".join(lines)


def _latency(microseconds: float | None) -> str:
    if microseconds is None:
        return ""
    return f"{microseconds:.0f} us" if microseconds < 10_000 else f"{microseconds / 1000:.0f} ms"
