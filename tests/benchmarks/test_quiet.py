"""Waiting for a quiet moment: how long, and what is said about it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import quiet
from benchmarks.quiet import Quiet, busy_share, kept_memory


def test_waits_until_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.9, 0.5, 0.2, 0.01])
    monkeypatch.setattr(quiet, "busy_share", lambda seconds: next(shares))
    waiting = Quiet(60)
    waiting.wait()
    assert next(shares, None) is None
    assert str(waiting) == "Nothing else ran."


def test_patience_ends_and_that_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.9, 0.01, 0.9])
    monkeypatch.setattr(quiet, "busy_share", lambda seconds: next(shares))
    impatient = Quiet(0)
    for _ in range(3):
        impatient.wait()
    assert str(impatient) == "Something else was running at 2 of 3 measurements."


def test_a_busy_process_is_seen() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=-1
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            start = time.monotonic()
            assert busy_share(0.3) > 0.05
            assert time.monotonic() - start >= 0.3
        finally:
            process.kill()


def test_the_host_keeps_off_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "_LEFT_BYTES", quiet.free_memory() - (8 << 20))
    setting = tmp_path / "page_reporting_order"
    setting.write_text("9\n")
    with kept_memory(setting):
        assert setting.read_text() == "11"
    assert setting.read_text() == "9\n"


def test_a_machine_without_such_a_host_needs_nothing(tmp_path: Path) -> None:
    with kept_memory(tmp_path / "nothing"):
        pass
    assert list(tmp_path.iterdir()) == []
