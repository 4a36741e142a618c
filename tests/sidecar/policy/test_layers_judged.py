"""Random layers, judged by tools that know nothing of ours: e2fsck, debugfs and veritysetup."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes.layer_tars import GNU, PAX, USTAR, Entry, make_tar, xattrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.policy.layers import convert
from sidecar.policy.verity import HashTree

# The one thing that e2fsck finds wrong with what the reference writes.
PADDING = "Padding at end of inode bitmap is not set. Fix? no"
NAMES = [
    "a",
    "b",
    "d",
    "d/x",
    "d/y",
    "d/e/z",
    "f/g/h",
    "l" * 120,
    "d/" + "m" * 255,
    "q" * 99 + "/" + "r" * 150,
]
SMALL, BIG = ("user.small", "s" * 9), ("trusted.big", "b" * 150)
SALT = "0" * 64


@dataclass
class Thing:
    """What must lie at a path; several names of one file share it."""

    type: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    data: bytes = b""
    target: str = ""
    xattrs: dict[str, str] = field(default_factory=dict)
    links: int = 1

    def is_directory(self) -> bool:
        return self.type == tarfile.DIRTYPE

    def has_blocks(self) -> bool:
        return bool(self.data) or len(self.target) > 59


@dataclass
class Layer:
    """A layer as it is written, and what must come out; steps that the reference would refuse do nothing."""

    pax: bool
    entries: list[Entry] = field(default_factory=list)
    things: dict[str, Thing] = field(default_factory=lambda: {"": Thing(tarfile.DIRTYPE, 0o755)})

    def reachable(self, path: str) -> bool:
        parents = self.parents(path)
        return all(self.things[parent].is_directory() for parent in parents if parent in self.things)

    def parents(self, path: str) -> list[str]:
        parts = path.split("/")
        return ["/".join(parts[:depth]) for depth in range(1, len(parts))]

    def make_parents(self, path: str) -> None:
        for parent in self.parents(path):
            if parent not in self.things:
                above = self.things["/".join(parent.split("/")[:-1])]
                self.things[parent] = Thing(tarfile.DIRTYPE, above.mode, above.uid, above.gid)

    def may_create(self, path: str, *, directory: bool) -> bool:
        there = self.things.get(path)
        if not self.reachable(path):
            return False
        if there is None:
            return True
        if there.is_directory() or directory:
            return there.is_directory() and directory
        return there.links > 1 or not there.has_blocks()

    def place(self, path: str, thing: Thing) -> None:
        self.make_parents(path)
        there = self.things.get(path)
        if there is not None and (there.is_directory() or there.links == 1):
            # The inode is used again, with the attributes that lie in it.
            kept = {SMALL[0]: SMALL[1]} if SMALL[0] in there.xattrs else {}
            thing.xattrs = kept | thing.xattrs
        elif there is not None:
            there.links -= 1
        self.things[path] = thing

    def add(
        self, kind: bytes, path: str, data: bytes, target: str, mode: int, owner: int, marks: int
    ) -> None:
        if not self.may_create(path, directory=kind == tarfile.DIRTYPE):
            return
        found = dict([SMALL, BIG][: marks % 3]) if self.pax else {}
        changes: dict[str, Any] = {
            "type": kind,
            "mode": mode,
            "uid": owner,
            "gid": owner // 2,
            "mtime": owner,
        }
        if found:
            changes["pax_headers"] = xattrs(found.items())
        thing = Thing(kind, mode, owner, owner // 2, xattrs=found)
        if kind == tarfile.SYMTYPE:
            changes["linkname"] = thing.target = target
            thing.mode |= 0o777
        elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            changes |= {"devmajor": mode, "devminor": owner % 5000}
        elif kind == tarfile.REGTYPE:
            thing.data = data
        self.entries.append((path, changes, thing.data))
        self.place(path, thing)

    def link(self, path: str, target: str) -> None:
        there, source = self.things.get(path), self.things.get(target)
        if source is None or source.is_directory() or not self.reachable(path):
            return
        if there is not None and (there.is_directory() or there.links < 2):
            return
        self.entries.append((path, {"type": tarfile.LNKTYPE, "linkname": target}, b""))
        self.make_parents(path)
        if there is not None:
            there.links -= 1
        source.links += 1
        self.things[path] = source

    def whiteout(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        if len(name) > 250 or not self.may_create(path, directory=False):
            return
        self.entries.append((f"{folder}/.wh.{name}" if folder else f".wh.{name}", {}, b""))
        self.place(path, Thing(tarfile.CHRTYPE))

    def opaque(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        if not self.reachable(path):
            return
        self.entries.append((f"{folder}/.wh..wh..opq" if folder else ".wh..wh..opq", {}, b""))
        self.make_parents(path)
        self.things[folder].xattrs["trusted.overlay.opaque"] = "y"

    def tar(self, form: int) -> bytes:
        return make_tar(PAX if self.pax else form, self.entries)


KINDS = [
    tarfile.REGTYPE,
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
]
SIZES = [0, 0, 1, 4095, 4096, 4097, 30000]
TARGETS = [1, 59, 60, 100, 7]  # lengths; an empty target is no sound symbolic link
STEP = st.tuples(
    st.sampled_from(["add", "add", "add", "link", "whiteout", "opaque"]),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.sampled_from(KINDS),
    st.sampled_from(SIZES),
    st.integers(0, 0o7777),
    st.sampled_from([0, 7, 1000, 70000, 2**21 - 1]),
    st.integers(0, 2),
)


def build(pax: bool, steps: list[Any]) -> Layer:
    layer = Layer(pax)
    for action, path, other, kind, size, mode, owner, marks in steps:
        if action == "add":
            layer.add(kind, path, bytes([size % 251]) * size, "t" * TARGETS[size % 5], mode, owner, marks)
        elif action == "link":
            layer.link(path, other)
        elif action == "whiteout":
            layer.whiteout(path)
        else:
            layer.opaque(path)
    return layer


class ImageFile:
    """A sink that writes a file and hashes what it gets."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.tree = HashTree(keep_all=True)

    def add(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)
        self.tree.add(data)

    def add_zeros(self, count: int) -> None:
        self._file.seek(4096 * count, io.SEEK_CUR)
        self.tree.add_zeros(count)

    def keep(self, block: int) -> None:
        self.tree.keep(block)

    def replace(self, block: int, data: bytes) -> None:
        place = self._file.tell()
        self._file.seek(4096 * block)
        self._file.write(data)
        self._file.seek(place)
        self.tree.replace(block, data)

    def close(self) -> None:
        self._file.truncate()
        self._file.close()


def run(*command: str, stdin: str = "", allowed: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode in allowed, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def check_file_system(image: Path) -> None:
    found = run("e2fsck", "-fn", str(image), allowed=(0, 4))
    problems = [line for line in found.splitlines() if "? no" in line]
    assert set(problems) <= {PADDING}, found


def check_hash_tree(image: Path, tree: HashTree) -> None:
    root, hashes = tree.root(), image.with_suffix(".hash")
    hashes.write_bytes(b"".join(tree.levels()))
    options = ["--no-superblock", "--hash-block-size=4096", "--data-block-size=4096", f"--salt={SALT}"]
    run("veritysetup", "verify", *options, str(image), str(hashes), root.hex())
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.with_suffix(".bad").write_bytes(data)
    bad = str(image.with_suffix(".bad"))
    run("veritysetup", "verify", *options, bad, str(hashes), root.hex(), allowed=(1, 2, 5))


def check_content(image: Path, things: dict[str, Thing], folder: Path) -> None:
    """Ask debugfs for every object, in one run."""
    commands: list[str] = []
    for number, (path, thing) in enumerate(things.items()):
        commands += [f"stat /{path}", f"ea_list /{path}"]
        if thing.type == tarfile.REGTYPE:
            commands.append(f"dump /{path} {shlex.quote(str(folder / str(number)))}")
    script = folder / "script"
    script.write_text("\n".join(commands) + "\n")
    answers = run("debugfs", "-f", str(script), str(image)).split("debugfs: stat /")[1:]
    assert len(answers) == len(things)
    for number, (answer, (path, thing)) in enumerate(zip(answers, things.items(), strict=True)):
        assert answer.startswith(f"{path}\n"), answer
        check_answer(answer, thing)
        if thing.type == tarfile.REGTYPE:
            assert (folder / str(number)).read_bytes() == thing.data, path


WORDS = {
    tarfile.REGTYPE: "regular",
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.FIFOTYPE: "FIFO",
    tarfile.CHRTYPE: "character special",
    tarfile.BLKTYPE: "block special",
}


def check_answer(answer: str, thing: Thing) -> None:
    def field_of(pattern: str) -> str:
        found = re.search(pattern, answer)
        assert found, answer
        return found[1]

    assert field_of(r"Type: ([a-zA-Z]+(?: special)?)") == WORDS[thing.type]
    assert int(field_of(r"Mode:\s+(\d+)"), 8) == thing.mode, (answer, thing)
    assert int(field_of(r"User:\s+(\d+)")) == thing.uid
    assert int(field_of(r"Group:\s+(\d+)")) == thing.gid
    if not thing.is_directory():
        assert int(field_of(r"Links:\s+(\d+)")) == thing.links
        assert int(field_of(r"Size:\s+(\d+)") if "Size:" in answer else 0) == len(thing.data or thing.target)
    if 0 < len(thing.target) <= 59:
        assert field_of(r'Fast link dest: "(.*)"') == thing.target
    for name, value in thing.xattrs.items():
        assert re.search(rf"{re.escape(name)} \({len(value)}\)", answer), (name, answer)


def judge(layer: Layer, form: int, folder: Path) -> None:
    image = folder / "layer.ext4"
    sink = ImageFile(image)
    convert(io.BytesIO(layer.tar(form)), sink)
    sink.close()
    check_file_system(image)
    check_hash_tree(image, sink.tree)
    check_content(image, layer.things, folder)


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return folder

    return make


@given(pax=st.booleans(), form=st.sampled_from([USTAR, GNU]), steps=st.lists(STEP, max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_layer(new_folder: Callable[[], Path], pax: bool, form: int, steps: list[Any]) -> None:
    layer = build(pax, steps)
    if form == USTAR and any(len(path) > 90 for path, _, _ in layer.entries):
        form = GNU
    judge(layer, form, new_folder())


@pytest.mark.slow
@given(pax=st.booleans(), steps=st.lists(STEP, max_size=60))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_random_layers(new_folder: Callable[[], Path], pax: bool, steps: list[Any]) -> None:
    judge(build(pax, steps), GNU, new_folder())


def test_directory_of_many_blocks_and_a_deep_path(tmp_path: Path) -> None:
    layer = Layer(pax=False)
    for number in range(300):
        layer.add(tarfile.REGTYPE, f"d/{number:03d}-" + "n" * (number % 200), b"", "", 0o644, 1, 0)
    layer.add(tarfile.REGTYPE, "/".join("p" * 40), b"deep", "", 0o644, 1, 0)
    judge(layer, GNU, tmp_path)
