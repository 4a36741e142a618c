"""A volume in a page blob, seen by a test through a proxy that makes its store fail."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fakes.blobservice import CONTAINER, BlobService
from fakes.commands import Commands, Result
from fakes.faultproxy import FaultProxy
from fakes.volumes import run_or_tear_down

_PIECE = 1 << 20
_CHUNK = 16 << 20


def put_image(service: BlobService, image: Path) -> str:
    """Make a page blob of a sparse image; its name."""
    size = image.stat().st_size
    name = service.page_blob(size=size)
    with image.open("rb") as file:
        offset = 0
        while offset < size:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA) // _PIECE * _PIECE
            except OSError:
                break
            data = os.pread(file.fileno(), _PIECE, offset)
            if any(data):
                service.put_page(name, offset, data)
            offset += _PIECE
    return name


@dataclass
class Remote:
    """One encrypted image in a store, with the key in `key.bin` and the signature in `sas`.

    Attributes:
        direct: the store itself.
        through: the store through the proxy.
    """

    commands: Commands
    direct: BlobService
    through: BlobService
    proxy: FaultProxy
    name: str

    @property
    def mnt(self) -> Path:
        return self.commands.folder / "mnt"

    def words(self, *options: str) -> list[str | Path]:
        """Arguments that say how to reach and unlock the volume."""
        url = str(self.through.url(self.name, ""))
        return [url, "--key-file", "key.bin", "--sas-file", "sas", *options]

    def mount(self, *options: str, group: list[str] | None = None) -> None:
        """Mount it at `mnt`; `group` are words that put the command into a cgroup."""
        url, *rest = self.words(*options)
        self.commands.run(*(group or []), "encfs", "mount", url, self.mnt, *rest, check=True)

    def unmount(self, *, timeout: float = 60) -> None:
        run_or_tear_down(self.commands, "encfs", "unmount", self.mnt, timeout=timeout)

    def download(self) -> Path:
        """What the store holds now, as an image; past the proxy."""
        path = self.commands.folder / "copy.img"
        size = int(self.direct.properties(self.name)["content-length"])
        with path.open("wb") as file:
            file.truncate(size)
            for start in range(0, size, _CHUNK):
                span = f"bytes={start}-{min(start + _CHUNK, size) - 1}"
                answer = self.direct.send("GET", f"/{CONTAINER}/{self.name}", x_ms_range=span)
                assert answer.status_code == 206, answer.text
                if any(answer.content):
                    os.pwrite(file.fileno(), answer.content, start)
        return path

    def replay(self, out: Path | None = None, folder: str = "") -> None:
        """e2fsck replays the journal of what the store holds now, and finds nothing else to do.

        Args:
            out: where to copy a folder of the file system to.
            folder: that folder.
        """
        plain = self.commands.folder / "plain"
        plain.mkdir(exist_ok=True)
        words = ("encfs", "expose", self.download(), plain, "--key-file", "key.bin")
        with self.commands.serving(*words, ready="ready"):
            self.commands.run("e2fsck", "-p", plain / "data", timeout=60)
            result = self.commands.run("e2fsck", "-fn", plain / "data", timeout=60)
            assert result.code == 0, result.out
            if out is not None:
                copy = f"rdump {folder} {out}"
                self.commands.run("debugfs", "-R", copy, plain / "data", check=True)

    def check(self) -> Result:
        """`encfs check` of what the store holds now: header, key, and e2fsck."""
        return self.commands.run("encfs", "check", self.download(), "--key-file", "key.bin")


def make_remote(
    commands: Commands, service: BlobService, proxy: FaultProxy, base: str, *, size: str
) -> Remote:
    """Create an image of a size, and put it into the store."""
    image = commands.folder / "data.img"
    commands.run("encfs", "create", image, "--size", size, "--key-file", "key.bin", check=True)
    sas = commands.folder / "sas"
    sas.write_text(service.sas())
    sas.chmod(0o600)
    through = BlobService(base, service.account, service.key, service.tls)
    remote = Remote(commands, service, through, proxy, put_image(service, image))
    image.unlink()
    return remote
