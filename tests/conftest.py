"""Shared fixtures, and one rule: an unexpected log record at WARNING or above fails the test."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # makes `import fakes.x` work under import-mode=importlib


@pytest.fixture
def root() -> Path:
    """Top of the checkout."""
    return ROOT


@pytest.fixture
def shared_snp() -> Path:
    """Folder with a real report and its certificates; lies beside the checkout, not in it."""
    folder = ROOT.parent / "shared" / "data" / "snp"
    if not folder.is_dir():
        pytest.skip(f"no real SNP vectors: {folder} is missing")
    return folder


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees settings of the machine it runs on."""
    prefixes = ("SIDECAR_", "ENCFS_", "AZURE_", "UVM_", "MAA_", "AKV_", "MHSM_")
    for name in list(os.environ):
        if name.startswith(prefixes):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_unexpected_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A record at WARNING fails the test unless the test reads `caplog` and clears it."""
    yield
    loud = [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    assert not loud, f"unexpected log records: {[r.getMessage() for r in loud]}"
