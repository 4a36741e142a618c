"""The state directory: lock, modes, renewal."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from fakes import pki

from sidecar.errors import MalformedInput, UsageError
from sidecar.local import ca
from sidecar.local.state import StateDirectory, write_whole


def test_certificate_is_made_once_and_renewed_in_time(tmp_path: Path) -> None:
    made: list[ca.Issued] = []

    def make(now: object = pki.NOW) -> ca.Issued:
        made.append(ca.make_self_signed("x", pki.NOW, life=timedelta(days=100)))
        return made[-1]

    for days, count in ((0, 1), (60, 1), (71, 2)):
        state = StateDirectory(tmp_path / "s", pki.NOW + timedelta(days=days))
        found = state.issued("x", make)
        state.close()
        assert len(made) == count
        assert found.certificate == made[-1].certificate
    assert stat.S_IMODE((tmp_path / "s" / "x.key").stat().st_mode) == 0o600


def test_lock(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path / "s", pki.NOW)
    with pytest.raises(UsageError, match="in use by another"):
        StateDirectory(tmp_path / "s", pki.NOW)
    first.close()
    StateDirectory(tmp_path / "s", pki.NOW).close()


def test_damaged_certificate_is_named(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "s", pki.NOW)
    state.issued("x", lambda: ca.make_self_signed("x", pki.NOW))
    state.certificate_path("x").write_text("damaged")
    with pytest.raises(MalformedInput, match="stored certificate"):
        state.issued("x", lambda: ca.make_self_signed("x", pki.NOW))
    state.close()


def test_unusable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        StateDirectory(tmp_path / "file", pki.NOW)
    with pytest.raises(UsageError, match="No such file"):
        write_whole(tmp_path / "none" / "x", b"")


def test_write_replaces_whole(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "x", b"one")
    write_whole(path, b"two", mode=0o644)
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
