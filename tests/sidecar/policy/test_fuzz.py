"""Hostile policies, fragments and events: only the package's own errors come out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.fuzz import Target, run
from fakes.needs import need_atheris
from fakes.policy_targets import targets

SECONDS = int(os.environ.get("FUZZ_SECONDS", "30"))


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_only_our_errors(target: Target) -> None:
    outcome = run(target, 0.3)
    assert outcome.runs > 20


@pytest.mark.slow
@pytest.mark.parametrize("script", ["policy_text", "policy_fragment"])
def test_coverage_guided(root: Path, tmp_path: Path, script: str) -> None:
    need_atheris()
    words = [
        sys.executable,
        str(root / "tests" / "fuzz" / f"{script}.py"),
        str(tmp_path / "corpus"),
        f"-max_total_time={SECONDS}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-max_len=20000",
        "-len_control=0",
        f"-artifact_prefix={tmp_path}/",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS + 120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None, done.stderr[-2000:]
    assert int(runs[1]) > 1000, "the fuzzer hardly ran"
