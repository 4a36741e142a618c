"""Snapshots as Prometheus text."""

from __future__ import annotations

from dataclasses import replace

from encfs.agentmetrics import Snapshot, metrics_text

FILE = Snapshot(
    index=0,
    image="/images/a.img",
    mount_point="/mnt/a",
    read_write=True,
    state="mounted",
    since=1_700_000_000.5,
    restarts=2,
    error="",
    writable=True,
    driver_pid=7,
    requests=10,
    in_flight=1,
    tampered=4,
    store={"kind": "file", "dirty_bytes": 0},
)
BLOB = replace(
    FILE,
    index=1,
    state="broken",
    writable=False,
    store={
        "kind": "blob",
        "dirty_bytes": 4096,
        "accepted_generation": 12,
        "stored_generation": 11,
        "failures": 3,
        "lease": "lost",
        "token_expiry": None,
    },
)


def test_every_line_is_a_sample_or_describes_one() -> None:
    lines = metrics_text([FILE, BLOB], ready=False).decode().splitlines()
    assert "encfs_ready 0" in lines
    assert 'encfs_volume_mounted{volume="0"} 1' in lines
    assert 'encfs_volume_mounted{volume="1"} 0' in lines
    assert 'encfs_volume_state_since_seconds{volume="0"} 1700000000.5' in lines
    assert 'encfs_store_dirty_bytes{volume="1"} 4096' in lines
    assert 'encfs_store_stored_generation{volume="1"} 11' in lines
    assert 'encfs_store_lease_held{volume="1"} 0' in lines
    described: set[str] = set()
    for line in lines:
        if line.startswith("# TYPE "):
            described.add(line.split()[2])
        elif not line.startswith("#"):
            name, _, value = line.partition("{")[0].partition(" ")[0], "", line.rpartition(" ")[2]
            assert name in described
            float(value)


def test_what_is_not_known_is_no_sample() -> None:
    text = metrics_text([FILE, replace(BLOB, store=None)], ready=True).decode()
    assert "lease" not in text
    assert "token_expiry" not in text
    assert "/images" not in text, "no path is a label"


def test_verification_failures_are_counted() -> None:
    assert 'encfs_verification_failures_total{volume="0"} 4' in metrics_text([FILE], ready=True).decode()
