"""The file systems that are compared, each as a context manager that yields its mount point.

All keep their image in one folder, which should lie on tmpfs, so that no disc is measured. Every peer gets
the settings that serve it best: gocryptfs its defaults, qemu's export a loop device set up like ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
_START_SECONDS = 20.0
_READ_AHEAD_SECTORS = str((4 << 20) // 512)
ENVIRONMENT = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
# Program -> the Debian package that has it.
PROGRAMS = {
    "fio": "fio",
    "cryptsetup": "cryptsetup-bin",
    "qemu-storage-daemon": "qemu-system-common",
    "gocryptfs": "gocryptfs",
    "mkfs.ext4": "e2fsprogs",
    "losetup": "mount",
    "tar": "tar",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a system lives: an empty folder of its own, and how large its image is in bytes."""

    folder: Path
    image_bytes: int

    @property
    def mount_point(self) -> Path:
        point = self.folder / "mnt"
        point.mkdir(exist_ok=True)
        return point

    @property
    def key_file(self) -> Path:
        """32 random bytes as hex digits, mode 0600."""
        path = self.folder / "key"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(os.urandom(32).hex())
        return path


def missing_programs() -> list[str]:
    """Debian packages to install before the comparison can run."""
    lacking = {package for program, package in PROGRAMS.items() if not _which(program)}
    return sorted(lacking)


def _which(program: str) -> str | None:
    return shutil.which(program, path=ENVIRONMENT["PATH"])


def run(*words: str | Path, timeout: float = 120) -> str:
    """Run a program; its standard output."""
    done = subprocess.run(
        [str(word) for word in words], env=ENVIRONMENT, check=True, timeout=timeout, stdout=subprocess.PIPE
    )
    return done.stdout.decode()


@contextlib.contextmanager
def plain_loop(place: Place) -> Iterator[Path]:
    """ext4 on a loop device on a file, as `mount -o loop` sets it up: no encryption, the ceiling."""
    image = place.folder / "image"
    _allocate(image, place.image_bytes)
    run("mkfs.ext4", "-q", "-F", image)
    run("mount", "-o", "loop", image, place.mount_point)
    try:
        yield place.mount_point
    finally:
        run("umount", place.mount_point)


@contextlib.contextmanager
def encfs(place: Place, *, sector_size: int = 4096) -> Iterator[Path]:
    """Our driver."""
    command = Path(sys.executable).parent / "encfs"
    image = place.folder / "image"
    words = ("--size", str(place.image_bytes), "--sector-size", str(sector_size))
    run(command, "create", image, *words, "--key-file", place.key_file, "--json")
    _allocate(image, place.image_bytes)
    run(command, "mount", image, place.mount_point, "--key-file", place.key_file)
    try:
        yield place.mount_point
    finally:
        run(command, "unmount", place.mount_point)


@contextlib.contextmanager
def encfs_512(place: Place) -> Iterator[Path]:
    """Our driver on an image with sectors of 512 bytes, as older images have."""
    with encfs(place, sector_size=512) as mount_point:
        yield mount_point


@contextlib.contextmanager
def qemu_luks(place: Place) -> Iterator[Path]:
    """LUKS by qemu-storage-daemon, exported as a file over FUSE; ext4 on a loop device on it."""
    image, export = place.folder / "image", place.folder / "export"
    export.touch()
    secret = f"secret,id=key,file={place.key_file}"
    _allocate(image, place.image_bytes)
    # Not by qemu-img, whose timing of the key derivation fails where the clock of CPU time is coarse.
    words = ("--type", "luks1", "--cipher", "aes-xts-plain64", "--key-size", "512")
    cheap = ("--pbkdf-force-iterations", "1000", "--key-file", place.key_file)
    run("cryptsetup", "luksFormat", "-q", *words, *cheap, image)
    daemon = subprocess.Popen(
        [
            "qemu-storage-daemon",
            "--object",
            secret,
            "--blockdev",
            f"driver=file,filename={image},node-name=file",
            "--blockdev",
            "driver=luks,file=file,key-secret=key,node-name=plain",
            "--export",
            f"type=fuse,id=export,node-name=plain,mountpoint={export},writable=on",
        ],
        env=ENVIRONMENT,
    )
    try:
        _wait_until(lambda: export.stat().st_size > 0)
        with _loop_on(export, place):
            yield place.mount_point
    finally:
        daemon.terminate()
        daemon.wait(_START_SECONDS)


@contextlib.contextmanager
def _loop_on(file: Path, place: Place) -> Iterator[None]:
    words = ("--find", "--show", "--direct-io=on", "--sector-size", "4096")
    loop = run("losetup", *words, file).strip()
    try:
        run("blockdev", "--setra", _READ_AHEAD_SECTORS, loop)
        run("mkfs.ext4", "-q", "-F", loop)
        run("mount", loop, place.mount_point)
        try:
            yield
        finally:
            run("umount", place.mount_point)
    finally:
        run("losetup", "-d", loop)
        # Detaching happens in the background; the daemon must not end before it.
        _wait_until(lambda: not Path(f"/sys/block/{Path(loop).name}/loop/backing_file").exists())


@contextlib.contextmanager
def gocryptfs(place: Place) -> Iterator[Path]:
    """gocryptfs: one encrypted file for each file, no ext4 of its own."""
    cipher = place.folder / "cipher"
    cipher.mkdir()
    run("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", place.key_file, cipher)
    run("gocryptfs", "-q", "-passfile", place.key_file, cipher, place.mount_point)
    try:
        yield place.mount_point
    finally:
        run("umount", place.mount_point)


SYSTEMS: dict[str, Callable[[Place], contextlib.AbstractContextManager[Path]]] = {
    "plain loop ext4": plain_loop,
    "encfs": encfs,
    "encfs, 512-byte sectors": encfs_512,
    "qemu LUKS over FUSE": qemu_luks,
    "gocryptfs": gocryptfs,
}


def _allocate(image: Path, size: int) -> None:
    """Give an image all its pages, keeping its content: what is compared is not how tmpfs finds them."""
    fd = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


def _wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {_START_SECONDS:g} s")
        time.sleep(0.02)
