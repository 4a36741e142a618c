"""Hostile images: only the package's own errors come out, soon, within bounds of memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.fuzz import Target, run
from fakes.layer_targets import targets
from fakes.needs import need_atheris

SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_only_our_errors(target: Target) -> None:
    outcome = run(target, 0.3)
    assert outcome.runs > 20


@pytest.mark.slow
def test_image_readers_survive_fuzzing(root: Path, tmp_path: Path) -> None:
    need_atheris()
    done = subprocess.run(
        [
            sys.executable,
            str(root / "tests" / "fuzz" / "image_layer.py"),
            str(tmp_path / "corpus"),
            f"-max_total_time={SECONDS}",
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-max_len=20000",
            "-len_control=0",
            f"-artifact_prefix={tmp_path}/",
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs
    assert int(runs[1]) > 1000, done.stderr[-500:]
