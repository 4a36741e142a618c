"""Boots the guest, runs one shell job in it, and reports what the job said and how it ended.

Emulated without acceleration, so that the result is the same wherever the tests run. The kernel's console,
the job's output and its exit status travel over three serial ports; images are attached as /dev/vda, /dev/vdb
and so on, and written in place.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guest import cpio, parts

OUTPUT_LIMIT = 1 << 18
_CONSOLE_SHOWN = 4000


class GuestFailed(Exception):
    """The guest did not finish its job: it hung, crashed or never started."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a job did.

    Attributes:
        status: exit status of the job.
        output: standard output and error of the job, at most OUTPUT_LIMIT bytes.
        console: messages of the kernel.
    """

    status: int
    output: str
    console: str

    def check(self) -> str:
        """Output of a job that must have succeeded."""
        assert self.status == 0, f"the guest's job ended with {self.status}:\n{self.output}\n{self.console}"
        return self.output


def _drive(image: Path) -> list[str]:
    # The host's page cache outlives the guest, so a flush inside it need not reach the host's disk.
    place = str(image).replace(",", ",,")
    return ["-drive", f"file={place},format=raw,if=virtio,cache=unsafe,discard=unmap"]


@dataclass(frozen=True, slots=True)
class Guest:
    """A kernel and an initramfs, ready to boot any number of times.

    Attributes:
        folder: holds `vmlinuz` and `base.cpio`.
        memory: megabytes of memory of the guest.
    """

    folder: Path
    memory: int = 768

    def run(
        self,
        job: str,
        *,
        images: Sequence[Path] = (),
        files: Mapping[str, bytes] | None = None,
        timeout: float = 180.0,
    ) -> Result:
        """Boots once and runs a job.

        Args:
            job: shell script; starts in /files, may mount on /mnt, and stops at the first failing command.
            images: disks of the guest, in order; their sizes are multiples of 512 bytes.
            files: name -> contents, laid into /files; may be secret, and live in the guest's memory and a
                private temporary folder only.
            timeout: seconds until the guest is cut off.

        Raises:
            GuestFailed: no exit status came back in time.
        """
        with tempfile.TemporaryDirectory(prefix="guest-") as name:
            work = Path(name)
            self._write_initramfs(work / "initramfs", job, files or {})
            ended = self._boot(work, images, timeout)
            return _read_result(work, ended)

    def _write_initramfs(self, path: Path, job: str, files: Mapping[str, bytes]) -> None:
        entries = [cpio.file("job", b"set -e\n" + job.encode())]
        entries += [cpio.file(f"files/{name}", data) for name, data in files.items()]
        with path.open("wb") as out:
            with (self.folder / "base.cpio").open("rb") as base:
                shutil.copyfileobj(base, out, 1 << 20)
            out.write(cpio.archive(entries))

    def _boot(self, work: Path, images: Sequence[Path], timeout: float) -> str:
        """Runs the emulator to its end; returns how it ended, in words."""
        command = [
            *(
                parts.EMULATOR[0],
                "-machine",
                "q35,accel=tcg",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                str(self.memory),
            ),
            *("-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot", "-nodefaults"),
            *("-kernel", str(self.folder / "vmlinuz"), "-initrd", str(work / "initramfs")),
            *("-append", "console=ttyS0 quiet loglevel=4 panic=-1"),
            *(
                word
                for port in ("console", "output", "status")
                for word in ("-serial", f"file:{work / port}")
            ),
            *(word for image in images for word in _drive(image)),
        ]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return f"cut off after {timeout:.0f} s"
        return (
            f"emulator ended with {done.returncode} {done.stderr.decode(errors='replace').strip()}".rstrip()
        )


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace") if path.exists() else ""


def _read_result(work: Path, ended: str) -> Result:
    output, console, status = (_text(work / port) for port in ("output", "console", "status"))
    if not status.strip().isdigit():
        raise GuestFailed(
            f"{ended}; console:\n{console[-_CONSOLE_SHOWN:]}\noutput:\n{output[-_CONSOLE_SHOWN:]}"
        )
    return Result(int(status), output, console)


def prepare(memory: int = 768) -> Guest:
    """A guest ready to boot; the first call on a machine downloads a kernel and takes about ten seconds.

    Raises:
        GuestUnavailable: this machine cannot run it; the message says what is missing.
    """
    return Guest(parts.gather(OUTPUT_LIMIT), memory)
