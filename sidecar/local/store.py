"""What the cloud in a box remembers: keys, their versions and policies, and a few settings, in SQLite.

Strategy: two tables for keys (one row a name, one row a version) and one for settings. Calls are short and
blocking; `Store.run` moves them to one worker thread, which also serialises them.

Rules: every change is one transaction and is on disk when the call returns. The file holds private keys in
the clear, as stand-ins for an HSM: mode 0600, and no place for keys that matter.

Kind: adapter
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from sidecar.akvkeys import PolicyEnvelope, parse_attributes, parse_envelope
from sidecar.errors import UsageError
from sidecar.jwk import parse_jwk
from sidecar.local.storedkey import StoredKey

T = TypeVar("T")
SCHEMA_VERSION = 1
_HINT = "choose another directory, or remove this one"

_SCHEMA = """
create table if not exists settings (name text primary key, value text not null);
create table if not exists names (
    service text not null, name text not null, shown text not null, policy text,
    deleted integer, purge integer, primary key (service, name));
create table if not exists versions (
    sequence integer primary key autoincrement, service text not null, name text not null, version text not
    null, jwk text not null, attributes text not null, tags text not null, unique (service, name, version),
    foreign key (service, name) references names (service, name) on delete cascade);
"""


class Store:
    """The database; open it once per process."""

    def __init__(self, path: Path) -> None:
        """Open or create; UsageError when the file cannot be used."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")
            self._db.execute("pragma foreign_keys = on")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as exc:
            raise UsageError(f"state {path}: {exc}", hint=_HINT) from exc
        self._limiter = trio.CapacityLimiter(1)
        self._check_version(path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    async def run(self, call: Callable[[], T]) -> T:
        """Make a call of this store in its worker thread."""
        return await trio.to_thread.run_sync(call, limiter=self._limiter)

    # -- settings -------------------------------------------------------------------------------

    def setting(self, name: str) -> str | None:
        """A remembered setting, or None."""
        row = self._db.execute("select value from settings where name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str | None) -> None:
        """Set a setting; None forgets it."""
        if value is None:
            self._db.execute("delete from settings where name = ?", (name,))
        else:
            self._db.execute("insert or replace into settings values (?, ?)", (name, value))

    def remembered(self, name: str, make: Callable[[], str]) -> str:
        """A setting, made on first use."""
        value = self.setting(name)
        if value is None:
            value = make()
            self.remember(name, value)
        return value

    # -- keys -----------------------------------------------------------------------------------

    def key(self, service: str, name: str, version: str = "") -> StoredKey | None:
        """A version of a key, the newest for an empty version; deleted keys included, see `deleted`."""
        where = "n.service = ? and n.name = ? and ? in ('', v.version)"
        rows = self._select(where, (service, name.lower(), version))
        return rows[-1] if rows else None

    def versions(self, service: str, name: str) -> list[StoredKey]:
        """All versions, oldest first."""
        return self._select("n.service = ? and n.name = ?", (service, name.lower()))

    def newest(self, service: str, *, deleted: bool) -> list[StoredKey]:
        """The newest version of every key that lives, or of every deleted one, by name."""
        rows = self._select(f"n.service = ? and n.deleted is {'not ' if deleted else ''}null", (service,))
        latest = {row.name.lower(): row for row in rows}
        return [latest[name] for name in sorted(latest)]

    def add(self, service: str, key: StoredKey) -> None:
        """Add a version; its policy becomes the whole key's."""
        place = (service, key.name.lower())
        with self._transaction():
            row = "insert or ignore into names (service, name, shown) values (?, ?, ?)"
            self._db.execute(row, (*place, key.name))
            self._write_policy(*place, key.policy)
            columns = "service, name, version, jwk, attributes, tags"
            row = f"insert into versions ({columns}) values (?, ?, ?, ?, ?, ?)"  # noqa: S608 - a literal
            self._db.execute(row, (*place, key.version, *_described(key)))

    def update(self, service: str, key: StoredKey) -> None:
        """Write a version's key_ops, attributes and tags and the key's policy."""
        place = (service, key.name.lower())
        with self._transaction():
            self._write_policy(*place, key.policy)
            change = "update versions set jwk = ?, attributes = ?, tags = ?"
            where = "where service = ? and name = ? and version = ?"
            self._db.execute(f"{change} {where}", (*_described(key), *place, key.version))

    def mark_deleted(self, service: str, name: str, deleted: int | None, purge: int | None) -> None:
        """Delete (both times given) or recover (both None) a key."""
        self._db.execute(
            "update names set deleted = ?, purge = ? where service = ? and name = ?",
            (deleted, purge, service, name.lower()),
        )

    def purge(self, service: str, name: str) -> None:
        """Forget a key with all its versions."""
        self._db.execute("delete from names where service = ? and name = ?", (service, name.lower()))

    def purge_overdue(self, now: int) -> None:
        """Forget every deleted key whose time for recovery is over."""
        self._db.execute("delete from names where purge is not null and purge <= ?", (now,))

    def _write_policy(self, service: str, name: str, policy: PolicyEnvelope | None) -> None:
        text = None if policy is None else json.dumps(policy.to_dict())
        self._db.execute("update names set policy = ? where service = ? and name = ?", (text, service, name))

    def _select(self, where: str, values: tuple[str, ...]) -> list[StoredKey]:
        # `where` is one of the literals above, never text from outside.
        query = f"""select n.shown, v.version, v.jwk, v.attributes, v.tags, n.policy, n.deleted, n.purge
            from names n join versions v on v.service = n.service and v.name = n.name
            where {where} order by v.sequence"""  # noqa: S608
        return [_stored(row) for row in self._db.execute(query, values)]

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _check_version(self, path: Path) -> None:
        found = self.remembered("schema", lambda: str(SCHEMA_VERSION))
        if found != str(SCHEMA_VERSION):
            raise UsageError(f"state {path}: version {found}, wanted {SCHEMA_VERSION}", hint=_HINT)


class _Transaction:
    """All or nothing; `sqlite3.Connection` as a context manager does not begin one in autocommit mode."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("begin immediate")

    def __exit__(self, kind: object, *rest: object) -> None:
        self._db.execute("rollback" if kind else "commit")


def _described(key: StoredKey) -> tuple[str, str, str]:
    jwk, attributes = key.jwk.to_dict(private=True), key.attributes.to_dict()
    return json.dumps(jwk), json.dumps(attributes), json.dumps(key.tags)


def _stored(row: tuple[object, ...]) -> StoredKey:
    shown, version, jwk, attributes, tags, policy, deleted, purge = row
    return StoredKey(
        name=str(shown),
        version=str(version),
        jwk=parse_jwk(json.loads(str(jwk)), what="stored key"),
        attributes=parse_attributes(json.loads(str(attributes))),
        tags=json.loads(str(tags)),
        policy=None if policy is None else parse_envelope(json.loads(str(policy))),
        deleted=deleted if isinstance(deleted, int) else None,
        purge=purge if isinstance(purge, int) else None,
    )
