"""Fills a new ext4 file system from a folder: one debugfs command after the other, in a fixed order.

Why not `mke2fs -d`: it takes names in the order the folder happens to list them, stores times of access and
change that nobody can repeat, cuts times to seconds and leaves out what belongs to the top folder.

debugfs numbers inodes in the order they are made, so each number is known ahead. It ends with exit code 0
whatever happened; therefore all it prints is compared with what it prints when all goes well.

Kind: composition
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from encfs.content import Entry, changed, newest
from encfs.errors import FileSystemError, UsageError
from encfs.exposing import tool_environment, why_full

_ROOT, _LOST_FOUND, _FIRST = 2, 11, 12
_MAX_LINE = 8000  # debugfs reads its commands through a buffer of 8192 bytes
_MAX_STEP_LINES = 20_000
_MAX_STEP_FILES = 200  # open at once for one step
_MAX_LINKS = 65_000
_DIRECTORY_ROOM = 4096 - 12 - 264  # bytes of a directory block that hold names, however they fall
_BANNER = re.compile(rb"debugfs \d[^\n]*\n")
_PLACE = re.compile(rb"\0(\d+)\0")
_NANO = 1_000_000_000


@dataclass(slots=True)
class Step:
    """One run of debugfs: commands, what it says when all go well, and files handed to it as descriptors."""

    commands: list[bytes] = field(default_factory=list)
    output: list[bytes] = field(default_factory=list)
    files: list[bytes | Path] = field(default_factory=list)
    single: bool = False

    def add(self, command: bytes, prints: bytes = b"") -> None:
        self.commands.append(command)
        self.output.append(prints if self.single else b"debugfs: " + command + b"\n" + prints)


class _Script:
    """Commands as steps. A command debugfs cannot read from a file (a line end in a name) is a step alone."""

    def __init__(self) -> None:
        self._step = Step()
        self._at = _ROOT
        self._ready: list[Step] = []

    def add(self, command: bytes, prints: bytes = b"") -> None:
        self._step.add(command, prints)

    def enter(self, number: int) -> None:
        """Make the following names in the folder with that inode."""
        if self._at != number:
            self.add(b"cd <%d>" % number)
            self._at = number

    def alone(self, command: bytes) -> None:
        self._flush()
        step = Step(single=True)
        step.add(command)
        self._ready.append(step)

    def file(self, content: bytes | Path) -> bytes:
        """Placeholder of a path at which debugfs can read `content`."""
        self._step.files.append(content)
        return b"\0%d\0" % (len(self._step.files) - 1)

    def take(self, *, last: bool = False) -> list[Step]:
        """The steps that are complete."""
        if last or len(self._step.commands) >= _MAX_STEP_LINES or len(self._step.files) >= _MAX_STEP_FILES:
            self._flush()
        ready, self._ready = self._ready, []
        return ready

    def _flush(self) -> None:
        if self._step.commands:
            self._ready.append(self._step)
        self._step, self._at = Step(), _ROOT


async def populate(data: Path, top: Path, entries: list[Entry]) -> None:
    """Copy a folder into a file system that mke2fs has just made.

    Args:
        data: the plaintext device.
        top: the folder.
        entries: from `scan`.

    Raises:
        UsageError: an entry that ext4 cannot hold, or the folder changed since it was read: its digest, and
            the volume key made from it, would then belong to other content.
        FileSystemError: debugfs complained, most often because the content does not fit.
    """
    environment = tool_environment() | {"E2FSPROGS_FAKE_TIME": str(newest(entries))}
    for step in commands(top.resolve(), entries):
        await _run(data, step, environment)
    if (name := await trio.to_thread.run_sync(changed, top, entries)) is not None:
        raise UsageError(f"source folder {top}: {name!r} changed while it was read", hint="run again")


def commands(top: Path, entries: list[Entry]) -> Iterator[Step]:
    """The steps that make `entries`."""
    script, numbers = _Script(), _numbers(entries)
    links, room = _link_counts(entries), _room(entries)
    for index, entry in enumerate(entries):
        number = numbers[index]
        if number not in (_ROOT, _LOST_FOUND):
            _make(script, top, entry, number, numbers[room.index[entry.parent]])
        for _ in range(room.blocks.get(entry.path, 0)):
            script.add(b"expand_dir <%d>" % number)
        if entry.link_of is None and not stat.S_ISDIR(entry.status.st_mode):
            _describe(script, entry, number, links.get(index, 1))
        yield from script.take()
    # Last, because making a name in a folder changes the folder.
    for index, entry in enumerate(entries):
        if stat.S_ISDIR(entry.status.st_mode):
            _describe(script, entry, numbers[index], 1)
            yield from script.take()
    yield from script.take(last=True)


def _numbers(entries: list[Entry]) -> list[int]:
    """The inode of each entry."""
    numbers: list[int] = []
    following = _FIRST
    for entry in entries:
        if entry.link_of is not None:
            numbers.append(numbers[entry.link_of])
        elif entry.path in (b"", b"lost+found"):
            if not stat.S_ISDIR(entry.status.st_mode):
                raise UsageError("source folder: lost+found is no folder, wanted one or none")
            numbers.append(_LOST_FOUND if entry.path else _ROOT)
        else:
            numbers.append(following)
            following += 1
    return numbers


def _link_counts(entries: list[Entry]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for entry in entries:
        if entry.link_of is not None:
            counts[entry.link_of] = counts.get(entry.link_of, 1) + 1
            if counts[entry.link_of] > _MAX_LINKS:
                raise UsageError(f"source file {entry.path!r}: over {_MAX_LINKS} names, ext4 has no more")
    return counts


@dataclass(slots=True)
class _Room:
    index: dict[bytes, int]
    blocks: dict[bytes, int]


def _room(entries: list[Entry]) -> _Room:
    """Where folders are, and blocks to add ahead: `ln` of debugfs adds none to a full folder."""
    index = {e.path: i for i, e in enumerate(entries) if stat.S_ISDIR(e.status.st_mode)}
    used: dict[bytes, int] = {}
    linked: set[bytes] = set()
    for entry in entries[1:]:
        used[entry.parent] = used.get(entry.parent, 24) + 12 + len(entry.name)
        if entry.link_of is not None or _is_odd(entry):
            linked.add(entry.parent)
            used[entry.parent] += 40
            used[b""] = used.get(b"", 24) + 40
    return _Room(index, {path: used[path] // _DIRECTORY_ROOM for path in linked})


def _is_odd(entry: Entry) -> bool:
    """Whether debugfs cannot make it from a line of commands."""
    return b"\n" in entry.name + entry.target or len(_quoted(entry.target)) > _MAX_LINE - 600


def _make(script: _Script, top: Path, entry: Entry, number: int, parent: int) -> None:
    place = b"<%d>/" % parent + entry.name
    if entry.link_of is not None:
        command = b"ln <%d> %s" % (number, _quoted(place))
        if b"\n" in command:
            script.alone(command)
        else:
            script.add(command)
        return
    if not _is_odd(entry):
        script.enter(parent)
        _make_named(script, top, entry, number, entry.name)
        return
    # Made under another name, then renamed; commands of a step alone start in the top folder.
    name = b".encfs-%d" % number
    made_in = b"<%d>/" % parent
    if stat.S_ISLNK(entry.status.st_mode):
        made_in = b"<%d>/" % _ROOT
        script.alone(b"symlink %s %s" % (name, _quoted(entry.target)))
    else:
        script.enter(parent)
        _make_named(script, top, entry, number, name)
    script.alone(b"ln <%d> %s" % (number, _quoted(place)))
    script.alone(b"unlink %s" % _quoted(made_in + name))


def _make_named(script: _Script, top: Path, entry: Entry, number: int, name: bytes) -> None:
    mode, quoted = entry.status.st_mode, _quoted(name)
    allocated = b"Allocated inode: %d\n" % number
    if stat.S_ISREG(mode):
        _write(script, top, entry, quoted, allocated)
    elif stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
        made = (
            b"mkdir " + quoted if stat.S_ISDIR(mode) else b"symlink %s %s" % (quoted, _quoted(entry.target))
        )
        script.add(made)
        script.add(b"testi <%d>" % number, b"Inode %d is marked in use\n" % number)
    elif stat.S_ISFIFO(mode):
        script.add(b"mknod %s p" % quoted, allocated)
    else:
        kind = b"c" if stat.S_ISCHR(mode) else b"b"
        script.add(b"mknod %s %s 0 0" % (quoted, kind), allocated)
        # mknod of debugfs knows 16 bits of a minor number; this is how the kernel stores all of it.
        major, minor = os.major(entry.status.st_rdev), os.minor(entry.status.st_rdev)
        encoded = (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
        script.add(b"sif <%d> block[0] 0" % number)
        script.add(b"sif <%d> block[1] %d" % (number, encoded))


def _write(script: _Script, top: Path, entry: Entry, quoted: bytes, allocated: bytes) -> None:
    source = os.path.join(os.fsencode(top), entry.path)
    if b"\n" in source or len(_quoted(source)) > _MAX_LINE - 600:
        script.add(b"write %s %s" % (script.file(Path(os.fsdecode(source))), quoted), allocated)
    else:
        script.add(b"write %s %s" % (_quoted(source), quoted), allocated)


def _describe(script: _Script, entry: Entry, number: int, links: int) -> None:
    """Mode, owner, links, times and extended attributes."""
    for name, value in entry.xattrs:
        if b"\n" in name:
            raise UsageError(
                f"source {os.fsdecode(entry.path)!r}: attribute {name!r} has a line end in its name"
            )
        script.add(b"ea_set -f %s <%d> %s" % (script.file(value), number, _quoted(name)))
    status = entry.status
    fields = {"mode": f"0{status.st_mode:o}", "uid": status.st_uid, "gid": status.st_gid}
    if links > 1:
        fields["links_count"] = links
    low, extra = _time(entry.modified)
    for kind in ("atime", "mtime", "ctime", "crtime"):
        fields |= {kind: f"@{low}", f"{kind}_extra": extra}
    for key, text in fields.items():
        script.add(f"sif <{number}> {key} {text}".encode())


def _time(when: int) -> tuple[int, int]:
    """Nanoseconds since 1970 as the two 32-bit words of an ext4 inode; held within 1901 to 2446."""
    seconds, nanoseconds = divmod(when, _NANO)
    seconds = max(-(1 << 31), min(seconds, (1 << 34) - (1 << 31) - 1))
    low = seconds & 0xFFFFFFFF
    signed = low - (1 << 32) if low >> 31 else low
    return low, (nanoseconds << 2) | ((seconds - signed) >> 32)


def _quoted(text: bytes) -> bytes:
    return b'"' + text.replace(b'"', b'""') + b'"'


async def _run(data: Path, step: Step, environment: dict[str, str]) -> None:
    """Run debugfs once.

    Raises:
        FileSystemError: it did not do everything.
    """
    opened: list[int] = []
    try:
        for content in step.files:
            opened.append(_open(content))
        script = _with_paths(b"".join(command + b"\n" for command in step.commands), opened)
        words = ["-R", os.fsdecode(script[:-1])] if step.single else ["-f", "-"]
        result = await trio.run_process(
            ["debugfs", "-w", *words, str(data)],
            stdin=b"" if step.single else script,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment,
            pass_fds=tuple(opened),
        )
    except FileNotFoundError as exc:
        raise FileSystemError("debugfs: not found", hint="install e2fsprogs") from exc
    finally:
        for fd in opened:
            os.close(fd)
    wanted = _with_paths(b"".join(step.output), opened)
    complaint = _BANNER.sub(b"", result.stderr, count=1).decode(errors="replace").strip()
    if result.returncode != 0 or complaint or result.stdout != wanted:
        reason = (
            complaint.splitlines()[0] if complaint else f"exit code {result.returncode}, unexpected output"
        )
        raise FileSystemError(
            f"debugfs: {reason}",
            hint=why_full(reason),
        )


def _with_paths(text: bytes, opened: list[int]) -> bytes:
    return _PLACE.sub(lambda match: b"/proc/self/fd/%d" % opened[int(match[1])], text)


def _open(content: bytes | Path) -> int:
    """A descriptor from which debugfs reads; bytes go through memory, because they never touch the disk."""
    if isinstance(content, Path):
        return os.open(content, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fd = os.memfd_create("encfs-value", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    return fd
