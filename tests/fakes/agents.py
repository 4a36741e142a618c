"""An agent as a process, and the cloud it gets its keys from."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.commands import Commands, is_mounted

POLICY = "package policy\ndefault allow := false\n"
OTHER_POLICY = "package policy\ndefault allow := true\n"


@contextlib.contextmanager
def local_cloud(folder: Path) -> Iterator[dict[str, str]]:
    """`sidecar local` as a process; yields the environment that leads to it."""
    commands = Commands(folder, {"SIDECAR_SNP_DIRECTORY": str(folder / "snp")})
    words = ("sidecar", "local", "--directory", folder / "state", "--no-throttle")
    with commands.serving(*words, ready="sidecar local: ready"):
        lines = (folder / "state" / "env").read_text().splitlines()
        yield dict(shlex.split(line)[1].split("=", 1) for line in lines)


@dataclass
class Agent:
    """One agent in the folder of `commands`; its volumes' mount points lie in `mnt`.

    Attributes:
        settings: what goes into EncfsSideCarArgs or a file.
        options: more words for the command line.
    """

    commands: Commands
    settings: dict[str, Any]
    options: tuple[str, ...] = ()
    address: str = ""
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self, *, wait: bool = True) -> float:
        """Start it and wait for its ready line; seconds that took."""
        folder = self.commands.folder
        (folder / "settings.json").write_text(json.dumps(self.settings))
        words = ("encfs", "agent", "--config", "settings.json", "--port", "0", *self.options)
        began = time.monotonic()
        with (folder / "agent.log").open("w") as log:
            self.process = subprocess.Popen(
                words,
                cwd=folder,
                env=self.commands.child_environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        if wait:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line.startswith("encfs agent: ready"), f"{line!r}: {self.log}"
            self.address = line.split()[-1]
        return time.monotonic() - began

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return (self.commands.folder / "agent.log").read_text()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def end(self, number: int = signal.SIGTERM, timeout: float = 40) -> int:
        """Send a signal and wait; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = 40) -> int:
        """Wait until it ended; the exit code."""
        assert self.process is not None
        code = self.process.wait(timeout)
        if self.process.stdout is not None:
            self.process.stdout.close()
        assert "Traceback" not in self.log, self.log
        return code

    def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """One request; status and the answer, decoded where it is JSON."""
        request = urllib.request.Request(self.address + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, body = error.code, error.read()
        try:
            return status, json.loads(body)
        except ValueError:
            return status, body.decode()

    def volume(self, index: int) -> Any:
        """What `/volumes/N` says."""
        return self.ask(f"/volumes/{index}")[1]

    def result(self) -> tuple[str, Any]:
        """The result file and the one beside it that says why."""
        folder = self.commands.folder
        return (folder / "result").read_text(), json.loads((folder / "result.json").read_text())

    def stop_whatever(self) -> None:
        """End it, and take down what it left, however the test ended."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        for path in (self.commands.folder / "run" / "agent").glob("*/state.json"):
            state = json.loads(path.read_text())
            for point in (state["mount_point"], str(path.parent / "device")):
                if is_mounted(Path(point)):
                    subprocess.run(["umount", "-f", "-l", point], check=False, timeout=20)
            with contextlib.suppress(ProcessLookupError):
                os.kill(state["driver_pid"], signal.SIGKILL)
