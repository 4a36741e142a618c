"""docs/walkthrough.md, every block of its laptop side, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.registry]
# Ends what the page starts, however it ends; a block that fails is named by its first line.
_FRAME = """set -euo pipefail
finish() {
  status=$?
  for pid in ${agent:-} ${cloud:-}; do kill "$pid" 2>/dev/null && wait "$pid" || true; done
  exit "$status"
}
trap finish EXIT
"""


def blocks(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_the_walkthrough_walks(root: Path, tmp_path: Path) -> None:
    found = blocks((root / "docs" / "walkthrough.md").read_text())
    assert len(found) >= 10
    script = _FRAME + "\n".join(f"echo '== {number}'\n{block}" for number, block in enumerate(found, start=1))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    environment = {"PATH": path, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    with (tmp_path / "output").open("w+") as output:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(150)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)
    said = (tmp_path / "output").read_text()
    assert code == 0, said
    assert "4711,confidential" in said
    assert "score 0.97" in said
    assert f"== {len(found)}" in said
