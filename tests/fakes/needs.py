"""What a test's marker needs of the machine, and what of it is not there.

A user's machine may lack FUSE or an emulator: the test is skipped and the reason names the missing thing. CI
has no such excuse: there the same test fails.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import pytest
from guest import parts

from fakes import azurite, registry


def _fuse() -> str:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as exc:
        return f"/dev/fuse: {exc.strerror}"
    return ""


def _root() -> str:
    if os.geteuid() != 0:
        return "not run as root"
    if not Path("/dev/loop-control").exists():
        return "no /dev/loop-control"
    return ""


def _kernel() -> str:
    return f"no guest kernel: missing {', '.join(parts.missing())}" if parts.missing() else ""


def _azurite() -> str:
    if shutil.which("node") is None:
        return "no Node.js; scripts/install-azurite brings it"
    return "" if azurite.MAIN.is_file() else "Azurite is not installed; run scripts/install-azurite"


def _registry() -> str:
    return f"not installed: {registry.missing()}" if registry.missing() else ""


def _containers() -> str:
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    lacking = [
        name for name in ("buildah", "mmdebstrap", "runc", "ip") if shutil.which(name, path=path) is None
    ]
    return f"not installed: {' '.join(lacking)}" if lacking else ""


NEEDS = {
    "azurite": _azurite,
    "containers": _containers,
    "registry": _registry,
    "fuse": _fuse,
    "root": _root,
    "kernel": _kernel,
}


def refuse_lacking(markers: Iterable[str], *, ci: bool) -> None:
    """Skips the running test, or fails it in CI, when the machine lacks what one of its markers needs."""
    for marker in markers:
        reason = NEEDS[marker]() if marker in NEEDS else ""
        if reason:
            lacking(f"marker {marker}: {reason}", ci=ci)


def lacking(reason: str, *, ci: bool | None = None) -> NoReturn:
    """Skips the running test, or fails it in CI, because of what the machine lacks."""
    if os.environ.get("CI") == "true" if ci is None else ci:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def need_atheris() -> None:
    """Coverage-guided fuzzing; the dev extra brings it for the Pythons it has wheels for."""
    if importlib.util.find_spec("atheris") is None:
        lacking("no atheris: it is in the dev extra for the Pythons it has wheels for")
