"""Runs the fuzz target: no crash, no hang, no memory beyond bounds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.needs import need_atheris

SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))


@pytest.mark.slow
def test_header_parser_survives_fuzzing(root: Path, tmp_path: Path) -> None:
    need_atheris()
    corpus = tmp_path / "corpus"
    done = subprocess.run(
        [
            sys.executable,
            str(root / "tests" / "fuzz" / "luks2_header.py"),
            str(corpus),
            f"-max_total_time={SECONDS}",
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-max_len=40000",
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
    assert runs is not None, done.stderr[-2000:]
    assert int(runs[1]) > 1000, "the fuzzer hardly ran"
