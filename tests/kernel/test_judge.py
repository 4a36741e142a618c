"""A real kernel judges our images, and we read what a real kernel wrote.

One boot does all of it. Before it, `encfs` makes images and writes through a mount; in it, the kernel opens
those with dm-crypt, checks, reads and changes them, and makes images of its own with `cryptsetup luksFormat`;
after it, our stack reads every sector of them all, and `encfs mount` their files.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase

import pytest
from fakes.commands import Commands
from fakes.volumes import checksum, make_tree, tear_down, tree_checksums
from guest import parts
from guest.machine import Guest

from encfs.block.buffers import BufferPool
from encfs.block.device import read
from encfs.block.file import open_file
from encfs.keys import Secret
from encfs.luks2.create import format_header
from encfs.luks2.unlock import read_header, unlock
from encfs.stack import build_stack
from encfs.volume import SegmentGeometry

pytestmark = [pytest.mark.kernel, pytest.mark.fuse, pytest.mark.root]

IMAGE_SIZE = 26 << 20
CHUNK = 1 << 20
# Sizes around a sector, a page and a request, nested and awkwardly named.
SIZES = {
    "empty": 0,
    "one": 1,
    "sector minus one": 511,
    "sector": 512,
    "sector-plus-one": 513,
    "ünïcode/page": 4096,
    "ünïcode/page+1": 4097,
    "deep/er/and/deeper/request": CHUNK,
    "deep/er/odd": CHUNK + 12_345,
}
# Images of the kernel's own, by the options of `cryptsetup luksFormat`. The first is what the predecessor's
# script used; the passphrase is a file of 32 random bytes, as for all of them.
FORMATS = {
    "theirs-predecessor": "--cipher aes-xts-plain64 --key-size 512 --sector-size 4096",
    "theirs-512-sectors": "--cipher aes-xts-plain64 --key-size 512 --sector-size 512",
    "theirs-1024-sectors": "--cipher aes-xts-plain64 --key-size 512 --sector-size 1024",
    "theirs-2048-sectors": "--cipher aes-xts-plain64 --key-size 512 --sector-size 2048",
    "theirs-256-bit-key": "--cipher aes-xts-plain64 --key-size 256 --sector-size 4096",
    "theirs-256-bit-key-512-sectors": "--cipher aes-xts-plain64 --key-size 256 --sector-size 512",
}
CREATED = {
    "ours": ("--sector-size", "4096"),
    "ours-512-sectors": ("--sector-size", "512"),
    "ours-1024-sectors": ("--sector-size", "1024"),
    "ours-2048-sectors": ("--sector-size", "2048"),
    "ours-argon2id": ("--pbkdf", "argon2id"),
}
# Made by our `format_header` alone, without a MAC so that cryptsetup may change it; the kernel makes its file
# system.
HEADER_ONLY = "ours-256-bit-key"
# Our image with the first header copy gone: does the kernel's side accept our second one?
DAMAGED = "ours-damaged"
NAMES = [*CREATED, DAMAGED, HEADER_ONLY, *FORMATS]

JOB = """
volume() { # NAME: checks an open volume's file system, shows its files, leaves one of ours in it
  e2fsck -fn /dev/mapper/v >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }
  mount /dev/mapper/v /mnt
  cp /sbin/mke2fs /mnt/from-the-kernel
  (cd /mnt && find . -type f -exec sha256sum {} + | sed "s/^/$1 file /")
  umount /mnt
  sha256sum </dev/mapper/v | sed "s/^/$1 plain /"
  cryptsetup close v
}
fill() { mkfs.ext4 -q /dev/mapper/v && mount /dev/mapper/v /mnt && tar -xf PAYLOAD -C /mnt && umount /mnt; }
open() { cryptsetup open --key-file key "$1" v; }
"""


@dataclass(frozen=True)
class Verdict:
    """What the kernel saw.

    Attributes:
        files: image name -> path -> SHA-256 of every file.
        plain: image name -> SHA-256 of the whole plaintext device.
        images: image name -> path.
    """

    commands: Commands
    expected: dict[str, str]
    files: dict[str, dict[str, str]]
    plain: dict[str, str]
    images: dict[str, Path]


def payload(tree: Path, path: Path) -> None:
    """The tree as a tar file that a guest reads from a disk."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(tree, arcname=".")
    path.write_bytes(buffer.getvalue())


def make_ours(commands: Commands, tree: Path, images: dict[str, Path]) -> None:
    """Half of the files come by `create --from`, the rest is copied through a mount."""
    first, rest = commands.folder / "first", commands.folder / "mnt"
    names = list(SIZES)
    rest.mkdir()
    for name in names[::2]:
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        (first / name).write_bytes((tree / name).read_bytes())
    for name, options in CREATED.items():
        words = ("--key-file", "key", "--size", str(IMAGE_SIZE), "--from", "first", *options)
        commands.run("encfs", "create", images[name], *words, check=True)
        commands.run("encfs", "mount", images[name], rest, "--key-file", "key", check=True)
        for copied in names[1::2]:
            (rest / copied).parent.mkdir(parents=True, exist_ok=True)
            (rest / copied).write_bytes((tree / copied).read_bytes())
        commands.run("encfs", "unmount", rest, check=True)


def make_damaged(intact: Path, path: Path) -> None:
    data = bytearray(intact.read_bytes())
    data[:4096] = bytes(4096)
    path.write_bytes(data)


def make_header_only(key: bytes, path: Path) -> None:
    made = format_header(
        image_size=IMAGE_SIZE,
        passphrase=Secret(key, full_entropy=True),
        volume_key=Secret(secrets.token_bytes(32)),
        sector_size=4096,
        authenticated=False,
    )
    path.write_bytes(made.data)
    os.truncate(path, IMAGE_SIZE)


def job(devices: dict[str, str], payload_device: str) -> str:
    steps = [JOB.replace("PAYLOAD", payload_device)]
    for name, device in devices.items():
        if name in FORMATS:
            pbkdf = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
            steps.append(f"cryptsetup luksFormat -q --type luks2 {FORMATS[name]} {pbkdf} {device} key")
        steps.append(f"open {device}")
        if name in FORMATS or name == HEADER_ONLY:
            steps.append("fill")
        steps.append(f"volume {name}")
    cheap = "--pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 16384 --pbkdf-parallel 1"
    steps.append(f"cryptsetup luksAddKey -q --key-file key {cheap} {devices[HEADER_ONLY]} second")
    return "\n".join(steps)


def parse(output: str) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    files: dict[str, dict[str, str]] = {name: {} for name in NAMES}
    plain: dict[str, str] = {}
    for line in output.splitlines():
        name, _, rest = line.partition(" ")
        kind, _, rest = rest.partition(" ")
        digest, _, path = rest.partition("  ")
        if name in files and kind == "file":
            files[name][path.removeprefix("./")] = digest
        elif name in files and kind == "plain":
            plain[name] = digest
    return files, plain


@pytest.fixture(scope="module")
def verdict(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verdict]:
    folder = tmp_path_factory.mktemp("judge")
    commands = Commands(folder)
    keys = {name: secrets.token_bytes(32) for name in ("key", "second")}
    for name, key in keys.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(key)
    images = {name: folder / f"{name}.img" for name in NAMES}
    try:
        expected = make_tree(folder / "tree", SIZES)
        payload(folder / "tree", folder / "payload")
        make_ours(commands, folder / "tree", images)
        make_damaged(images["ours"], images[DAMAGED])
        make_header_only(keys["key"], images[HEADER_ONLY])
        for name in FORMATS:
            images[name].touch()
            os.truncate(images[name], IMAGE_SIZE)
        disks = [*images.values(), folder / "payload"]
        devices = dict(zip(images, (f"/dev/vd{letter}" for letter in ascii_lowercase), strict=False))
        ran = guest.run(job(devices, f"/dev/vd{ascii_lowercase[len(images)]}"), images=disks, files=keys)
        program = parts.find("mke2fs")
        assert program is not None
        files, plain = parse(ran.check())
        yield Verdict(commands, expected | {"from-the-kernel": checksum(program)}, files, plain, images)
    finally:
        tear_down(folder / "run", folder)


def compare(verdict: Verdict, image: Path, key: str) -> None:
    """Our mount shows what the kernel saw."""
    mount_point = verdict.commands.folder / "mnt"
    verdict.commands.run("encfs", "mount", image, mount_point, "--key-file", key, "--read-only", check=True)
    seen = tree_checksums(mount_point)
    verdict.commands.run("encfs", "unmount", mount_point, check=True)
    assert seen == verdict.expected


@pytest.mark.parametrize("name", NAMES)
def test_the_kernel_sees_every_file(verdict: Verdict, name: str) -> None:
    assert verdict.files[name] == verdict.expected


@pytest.mark.parametrize("name", NAMES)
async def test_our_stack_reads_every_byte_the_kernel_reads(verdict: Verdict, name: str) -> None:
    source = open_file(verdict.images[name], read_only=True)
    passphrase = Secret((verdict.commands.folder / "key").read_bytes())
    header = read_header(source.read_exactly, source.size)
    opened = unlock(header, passphrase, source.read_exactly)
    segment = opened.segment
    geometry = SegmentGeometry(segment.offset, segment.size, segment.sector_size, segment.iv_tweak)
    device = await build_stack(source, geometry, opened.volume_key, BufferPool(2, CHUNK), read_only=True)
    digest = hashlib.sha256()
    for offset in range(0, device.size, CHUNK):
        digest.update(await read(device, offset, min(CHUNK, device.size - offset)))
    await device.aclose()
    assert digest.hexdigest() == verdict.plain[name]


@pytest.mark.parametrize("name", NAMES)
def test_our_mount_shows_what_the_kernel_saw(verdict: Verdict, name: str) -> None:
    compare(verdict, verdict.images[name], "key")


def test_a_keyslot_that_cryptsetup_added_to_our_header_opens(verdict: Verdict) -> None:
    compare(verdict, verdict.images[HEADER_ONLY], "second")
