"""A real kernel judges our integrity volumes, and we read what a real kernel wrote, after crashes of both.

Before the boot, `encfs` makes images and leaves some as a crash leaves them; in it, the kernel opens all with
dm-integrity and dm-crypt, replays what is to be replayed, reads and changes them, and stops with a journal of
its own full; after it, our stack reads every sector, and `encfs mount` the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase

import pytest
import trio
from fakes.commands import Commands
from fakes.crashstore import CrashStore, PowerLost
from fakes.volumes import tear_down
from guest.machine import Guest

from encfs import rundir
from encfs.block.buffers import BufferPool
from encfs.block.device import read
from encfs.block.file import open_file
from encfs.block.integrity import open_integrity, split_key
from encfs.block.memory import MemoryDevice
from encfs.integrity.format import format_segment
from encfs.integrity.layout import new_layout
from encfs.keys import Secret
from encfs.luks2.create import format_header
from encfs.luks2.unlock import read_header, unlock
from encfs.stack import build_stack
from encfs.volume import SegmentGeometry

pytestmark = [pytest.mark.kernel, pytest.mark.fuse, pytest.mark.root]

SIZE = 26 << 20
HEADER = 16 << 20
CHUNK = 1 << 20
MOUNTED = ("ours-4096", "ours-512", "theirs-4096", "theirs-512", "killed")
TORN = tuple(f"torn-{number}" for number in range(5))
STOPPED = "stopped"  # the kernel's machine stops while it is open
SEALED = "sealed"
NAMES = (*MOUNTED, *TORN, SEALED, STOPPED)
FILE = os.urandom(300_001)

JOB = """
open() { cryptsetup open --key-file key "$1" v; }
plain() { dd if=/dev/mapper/v bs=1M 2>/dev/null | sha256sum | sed "s/^/$1 plain /"; }
files() { # NAME: shows the files, leaves one of ours
  e2fsck -fn /dev/mapper/v >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }
  mount /dev/mapper/v /mnt
  (cd /mnt && find . -type f -exec sha256sum {} + | sed "s/^/$1 file /")
  cp /files/big /mnt/from-the-kernel
  umount /mnt
}
format() { # DEVICE SECTOR_SIZE
  pbkdf="--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
  cryptsetup luksFormat -q --type luks2 --integrity hmac-sha256 --sector-size $2 $pbkdf $1 key
}
fill() { mkfs.ext4 -q /dev/mapper/v && mount /dev/mapper/v /mnt && cp /files/big /mnt/ && umount /mnt; }
"""


@dataclass
class Verdict:
    """What the kernel saw: name -> path -> SHA-256 of files, name -> SHA-256 of the whole plaintext."""

    commands: Commands
    images: dict[str, Path]
    expected: dict[str, str]
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    plain: dict[str, str] = field(default_factory=dict)


def make_ours(commands: Commands, images: dict[str, Path]) -> None:
    source = commands.folder / "source"
    source.mkdir()
    (source / "big").write_bytes(FILE)
    for name, sector in (("ours-4096", "4096"), ("ours-512", "512"), ("killed", "4096"), (STOPPED, "4096")):
        words = ("--from", "source", "--size", str(SIZE), "--sector-size", sector, "--key-file", "key")
        commands.run("encfs", "create", images[name], *words, "--integrity", "hmac-sha256", check=True)


def kill_half_way(commands: Commands, image: Path) -> None:
    """A file written through our mount and fsynced, then driver and supervisor are killed."""
    mnt = commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key", check=True)
    with (mnt / "fsynced").open("wb") as file:
        file.write(FILE)
        file.flush()
        os.fsync(file.fileno())
    state = rundir.read_state(next(p for p in (commands.folder / "run").iterdir() if p.is_dir()))
    assert state is not None
    for pid in (state.supervisor_pid, state.driver_pid):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while rundir.is_alive(state.driver_pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    tear_down(commands.folder / "run", commands.folder)


def make_torn(key: bytes, path: Path, number: int) -> None:
    """A raw volume whose power was lost in the middle: journal sections torn or whole, in place in part."""
    volume_key = Secret(secrets.token_bytes(96), full_entropy=True)
    header = format_header(
        image_size=SIZE, passphrase=Secret(key, full_entropy=True), volume_key=volume_key, authenticated=False
    )
    segment = trio.run(torn_segment, volume_key, number)
    path.write_bytes(header.data + segment)


async def torn_segment(volume_key: Secret, number: int) -> bytes:
    layout = new_layout(
        SIZE - HEADER, device_size=96 << 20, block_size=4096, interleave=(15, 10, 7)[number % 3]
    )
    assert layout.journal_sections == 5
    fresh = MemoryDevice(bytearray(SIZE - HEADER))
    await format_segment(fresh, layout, split_key(volume_key)[1])
    dice = random.Random(number)
    store = CrashStore(bytes(fresh.data), stop_at=30 + 11 * number)
    try:
        device = await open_integrity(store, volume_key, block_size=4096, read_only=False)
        while True:
            for _ in range(dice.randint(1, 3)):
                count = dice.randint(1, 40)
                await device.write(dice.randrange(layout.blocks - count) * 4096, dice.randbytes(count * 4096))
            await device.flush()
    except PowerLost:
        return store.after_power_loss(dice, (0.0, 0.3, 0.5, 0.7, 1.0)[number])


def job(devices: dict[str, str], seal: dict[str, object]) -> str:
    steps = [JOB]
    for name, device in devices.items():
        if name == SEALED:
            root, size = seal["root_hash"], seal["data_size"]
            steps.append(f"veritysetup open --hash-offset={size} {device} sealed {device} {root}")
            steps.append("cryptsetup open --readonly --key-file key /dev/mapper/sealed v")
            steps.append("mount -o ro /dev/mapper/v /mnt")
            steps.append(f"(cd /mnt && find . -type f -exec sha256sum {{}} + | sed 's/^/{name} file /')")
            steps.append("umount /mnt; cryptsetup close v; veritysetup close sealed")
            continue
        if name.startswith("theirs"):
            steps.append(f"format {device} {name.partition('-')[2]}; open {device}; fill; cryptsetup close v")
        if name == STOPPED:
            continue
        steps.append(f"open {device}")
        if name in MOUNTED:
            steps.append(f"files {name}")
        steps.append(f"plain {name}; cryptsetup close v")
    # Last: its journal is full of what was synced when the machine stops.
    steps.append(
        f"open {devices[STOPPED]}; mount /dev/mapper/v /mnt; cp /files/big /mnt/from-the-kernel; sync"
    )
    return "\n".join(steps)


@pytest.fixture(scope="module")
def verdict(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verdict]:
    folder = tmp_path_factory.mktemp("integrity")
    commands = Commands(folder)
    key = secrets.token_bytes(32)
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_bytes(key)
    (folder / "mnt").mkdir()
    images = {name: folder / f"{name}.img" for name in NAMES}
    digest = hashlib.sha256(FILE).hexdigest()
    try:
        make_ours(commands, images)
        kill_half_way(commands, images["killed"])
        words = ("--from", "source", "--key-file", "key", "--quiet")
        commands.run("encfs", "create", images[SEALED], *words, check=True)
        seal = json.loads(commands.run("encfs", "seal", images[SEALED], "--json", check=True).out)
        for number, name in enumerate(TORN):
            make_torn(key, images[name], number)
        for name in ("theirs-4096", "theirs-512"):
            images[name].touch()
            os.truncate(images[name], SIZE)
        found = Verdict(commands, images, {"big": digest})
        expected = {name: sha256_of(images[name], key) for name in TORN}
        devices = dict(zip(images, (f"/dev/vd{letter}" for letter in ascii_lowercase), strict=False))
        ran = guest.run(job(devices, seal), images=[*images.values()], files={"key": key, "big": FILE})
        for line in ran.check().splitlines():
            name, _, rest = line.partition(" ")
            kind, _, rest = rest.partition(" ")
            value, _, path = rest.partition("  ")
            if kind == "file":
                found.files.setdefault(name, {})[path.removeprefix("./")] = value
            elif kind == "plain":
                found.plain[name] = value
        for name in TORN:
            assert expected[name] == found.plain[name], (
                f"{name}: the kernel replayed something else than we read"
            )
        yield found
    finally:
        tear_down(folder / "run", folder)


def sha256_of(image: Path, key: bytes) -> str:
    return trio.run(plain_digest, image, key)


async def plain_digest(image: Path, key: bytes) -> str:
    """SHA-256 of the whole plaintext, read through our stack without changing the image."""
    source = open_file(image, read_only=True)
    header = read_header(source.read_exactly, source.size)
    opened = unlock(header, Secret(key, full_entropy=True), source.read_exactly)
    segment = opened.segment
    geometry = SegmentGeometry(segment.offset, segment.size, segment.sector_size, segment.iv_tweak, True)
    device = await build_stack(source, geometry, opened.volume_key, BufferPool(2, CHUNK), read_only=True)
    digest = hashlib.sha256()
    for offset in range(0, device.size, CHUNK):
        digest.update(await read(device, offset, min(CHUNK, device.size - offset)))
    await device.aclose()
    return digest.hexdigest()


@pytest.mark.parametrize("name", MOUNTED)
def test_the_kernel_sees_every_file(verdict: Verdict, name: str) -> None:
    fsynced = {"fsynced": verdict.expected["big"]} if name == "killed" else {}
    assert verdict.files[name] == verdict.expected | fsynced


def test_the_kernel_verifies_what_we_sealed(verdict: Verdict) -> None:
    """dm-verity below dm-crypt, read-only."""
    assert verdict.files[SEALED] == verdict.expected


@pytest.mark.parametrize("name", [*MOUNTED, *TORN])
async def test_our_stack_reads_every_byte_the_kernel_reads(verdict: Verdict, name: str) -> None:
    key = (verdict.commands.folder / "key").read_bytes()
    assert await plain_digest(verdict.images[name], key) == verdict.plain[name]


@pytest.mark.parametrize("name", [*MOUNTED, STOPPED])
@pytest.mark.parametrize("mode", [("--read-only",), ()])
def test_our_mount_shows_what_the_kernel_wrote(verdict: Verdict, name: str, mode: tuple[str, ...]) -> None:
    """Also from a journal of the kernel's that was never emptied: in memory, or put in place."""
    mnt = verdict.commands.folder / "mnt"
    image = verdict.images[name]
    verdict.commands.run("encfs", "mount", image, mnt, "--key-file", "key", *mode, check=True)
    seen = (mnt / "from-the-kernel").read_bytes()
    verdict.commands.run("encfs", "unmount", mnt, check=True)
    assert seen == FILE
    verdict.commands.run("encfs", "check", image, "--key-file", "key", check=True)
