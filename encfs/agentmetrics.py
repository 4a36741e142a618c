"""What an agent says of its volumes: one snapshot each, as JSON and in Prometheus' text form.

Rules: label values are the volume's index and states of ours, so a scrape cannot grow without bound, and
nothing secret is among them.

Spec: Prometheus text exposition format 0.0.4.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a volume; sizes in bytes, times in Unix seconds.

    Attributes:
        index, image, mount_point, read_write: from its settings.
        state, since: and when it was entered.
        restarts: how often its driver died and it was mounted again.
        error: the last failure; empty for none.
        writable: whether the mounted file system takes writes; a failed journal makes it read-only.
        requests, in_flight: of its driver.
        store: what the driver says of the image's store; None where it says nothing.
    """

    index: int
    image: str
    mount_point: str
    read_write: bool
    state: str
    since: float
    restarts: int
    error: str
    writable: bool
    driver_pid: int | None
    requests: int
    in_flight: int
    tampered: int
    store: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class _Metric:
    name: str
    kind: str
    help: str
    value: Callable[[Snapshot], float | None]


def _stored(name: str) -> Callable[[Snapshot], float | None]:
    def value(snapshot: Snapshot) -> float | None:
        found = None if snapshot.store is None else snapshot.store.get(name)
        return float(found) if isinstance(found, int | float) else None

    return value


def _lease_held(snapshot: Snapshot) -> float | None:
    lease = None if snapshot.store is None else snapshot.store.get("lease")
    return None if lease in (None, "none") else float(lease == "held")


_METRICS = (
    _Metric(
        "volume_mounted", "gauge", "1 while the volume is mounted.", lambda s: float(s.state == "mounted")
    ),
    _Metric("volume_writable", "gauge", "1 while it takes writes.", lambda s: float(s.writable)),
    _Metric(
        "volume_state_since_seconds", "gauge", "When its state was entered, Unix time.", lambda s: s.since
    ),
    _Metric("volume_restarts_total", "counter", "Drivers that died and were replaced.", lambda s: s.restarts),
    _Metric(
        "driver_requests_total", "counter", "Requests the driver took from the kernel.", lambda s: s.requests
    ),
    _Metric("driver_requests_in_flight", "gauge", "Requests not answered yet.", lambda s: s.in_flight),
    _Metric(
        "verification_failures_total",
        "counter",
        "Reads of data that a hash tree or a tag told was changed.",
        lambda s: s.tampered,
    ),
    _Metric("store_dirty_bytes", "gauge", "Written, and not known to be stored.", _stored("dirty_bytes")),
    _Metric(
        "store_accepted_generation",
        "counter",
        "Number of the last write accepted.",
        _stored("accepted_generation"),
    ),
    _Metric(
        "store_stored_generation",
        "counter",
        "Every write up to this one is stored.",
        _stored("stored_generation"),
    ),
    _Metric("store_failures_total", "counter", "Requests to the store that failed.", _stored("failures")),
    _Metric("store_lease_held", "gauge", "1 while the blob's lease is ours.", _lease_held),
    _Metric(
        "token_expiry_seconds", "gauge", "When the store's token expires, Unix time.", _stored("token_expiry")
    ),
)


def metrics_text(snapshots: Iterable[Snapshot], *, ready: bool) -> bytes:
    """Everything, for a scrape."""
    found = list(snapshots)
    lines = ["# HELP encfs_ready 1 while every volume is mounted.", "# TYPE encfs_ready gauge"]
    lines.append(f"encfs_ready {int(ready)}")
    for metric in _METRICS:
        values = [(s.index, value) for s in found if (value := metric.value(s)) is not None]
        if values:
            lines += [
                f"# HELP encfs_{metric.name} {metric.help}",
                f"# TYPE encfs_{metric.name} {metric.kind}",
            ]
            lines += [f'encfs_{metric.name}{{volume="{index}"}} {_number(value)}' for index, value in values]
    return ("\n".join(lines) + "\n").encode()


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
