"""Runs our commands as users do: as processes, with a bound on everything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """What a command left: exit code and both streams as text."""

    code: int
    out: str
    err: str


@dataclass
class Commands:
    """Runs `encfs`, `sidecar` and system tools in one folder, with an environment of its own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def child_environment(self) -> dict[str, str]:
        """Environment of every command: our programs on PATH, a run directory in the folder."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return os.environ | {"PATH": path, "ENCFS_RUN_DIR": str(self.folder / "run")} | self.environment

    def run(self, *words: str | Path, timeout: float = 60, data: bytes = b"", check: bool = False) -> Result:
        """Run to the end; a command that takes longer than `timeout` seconds fails the test."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.folder,
            env=self.child_environment(),
            input=data,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert not check or result.code == 0, f"{words} ended with {result}"
        assert "Traceback" not in result.err, result.err
        return result

    @contextlib.contextmanager
    def serving(
        self, *words: str | Path, ready: str, env: Mapping[str, str] | None = None, timeout: float = 20
    ) -> Iterator[subprocess.Popen[str]]:
        """A command that serves: yields once it printed a line starting with `ready`; SIGTERM at the end."""
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=self.folder,
            env=self.child_environment() | dict(env or {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith(ready), f"{words}: first line {line!r}, wanted {ready!r}"
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                assert process.stdout is not None
                process.stdout.close()


def is_mounted(path: Path) -> bool:
    """Whether something is mounted at `path`, without touching it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(path) for line in lines)
