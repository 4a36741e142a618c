"""The database: what is written is there after a restart, and nothing else."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from fakes import pki

from sidecar.akvkeys import Attributes, PolicyEnvelope
from sidecar.errors import UsageError
from sidecar.jwk import jwk_of_private, jwk_of_secret
from sidecar.local.store import Store
from sidecar.local.storedkey import StoredKey

POLICY = PolicyEnvelope(b'{"version":"1.0.0"}', immutable=True)


def key(
    name: str, version: str, policy: PolicyEnvelope | None = POLICY, secret: bytes = b"s" * 32
) -> StoredKey:
    attributes = Attributes(enabled=True, exportable=True, created=1, recovery_level="x", recoverable_days=7)
    return StoredKey(name, version, jwk_of_secret(secret, key_ops=("sign",)), attributes, {"a": "b"}, policy)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "db")
    yield found
    found.close()


def test_keys_survive_closing(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    one, two = key("Disk", "1" * 32), key("Disk", "2" * 32)
    rsa = replace(one, name="rsa", jwk=jwk_of_private(pki.rsa_key()), policy=None)
    for item in (one, two, rsa):
        store.add("akv", item)
    store.close()
    assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o600
    store = Store(tmp_path / "db")
    assert store.key("akv", "disk") == two
    assert store.key("akv", "DISK", "1" * 32) == one
    assert store.key("akv", "rsa") == rsa
    assert store.versions("akv", "disk") == [one, two]
    assert store.newest("akv", deleted=False) == [two, rsa]
    assert store.key("mhsm", "disk") is None
    assert store.key("akv", "disk", "3" * 32) is None
    store.close()


def test_policy_belongs_to_the_whole_key(store: Store) -> None:
    store.add("akv", key("disk", "1" * 32))
    other = PolicyEnvelope(b"{}")
    store.add("akv", key("disk", "2" * 32, other))
    assert [k.policy for k in store.versions("akv", "disk")] == [other, other]


def test_update_writes_one_version(store: Store) -> None:
    store.add("akv", key("disk", "1" * 32))
    store.add("akv", key("disk", "2" * 32))
    changed = replace(key("disk", "1" * 32), tags={"x": "y"}, attributes=Attributes(enabled=False))
    store.update("akv", changed)
    assert store.versions("akv", "disk") == [changed, key("disk", "2" * 32)]


def test_delete_recover_purge(store: Store) -> None:
    store.add("akv", key("disk", "1" * 32))
    store.mark_deleted("akv", "disk", 10, 20)
    assert store.newest("akv", deleted=False) == []
    (found,) = store.newest("akv", deleted=True)
    assert (found.deleted, found.purge) == (10, 20)
    store.mark_deleted("akv", "disk", None, None)
    assert store.newest("akv", deleted=True) == []
    store.purge_overdue(1 << 40)
    assert store.key("akv", "disk") is not None
    store.mark_deleted("akv", "disk", 10, 20)
    store.purge_overdue(19)
    assert store.key("akv", "disk") is not None
    store.purge_overdue(20)
    assert store.key("akv", "disk") is None
    assert store.versions("akv", "disk") == []


def test_failed_add_changes_nothing(store: Store) -> None:
    store.add("akv", key("disk", "1" * 32))
    with pytest.raises(sqlite3.IntegrityError):
        store.add("akv", key("disk", "1" * 32, PolicyEnvelope(b"changed")))
    assert store.versions("akv", "disk") == [key("disk", "1" * 32)]


def test_settings(store: Store) -> None:
    assert store.remembered("a", lambda: "1") == "1"
    assert store.remembered("a", lambda: "2") == "1"
    store.remember("a", "3")
    assert store.setting("a") == "3"
    store.remember("a", None)
    assert store.setting("a") is None


async def test_calls_run_one_at_a_time(store: Store) -> None:
    running: list[int] = []

    def call() -> int:
        running.append(1)
        store.remember("n", str(int(store.setting("n") or "0") + 1))
        running.pop()
        return len(running)

    async def one() -> None:
        assert await store.run(call) == 0

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
    assert store.setting("n") == "20"


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("not a database, and long enough to be looked at" * 50)
    with pytest.raises(UsageError, match="not a database"):
        Store(tmp_path / "db")
    store = Store(tmp_path / "new")
    store.remember("schema", "99")
    store.close()
    with pytest.raises(UsageError, match="version 99, wanted 1"):
        Store(tmp_path / "new")


def test_secrets_stay_out_of_repr() -> None:
    assert "ssss" not in repr(key("disk", "1" * 32))
    assert "jwk=" not in repr(key("disk", "1" * 32))
