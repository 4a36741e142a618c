"""The objects of an ext4 image while it is written: names, inodes, and what an inode is to be.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from sidecar.policy.ext4_format import encode_inode

Path = tuple[bytes, ...]


class Times(NamedTuple):
    """The encoded words of access, change, modification and creation."""

    access: int = 0
    change: int = 0
    modify: int = 0
    create: int = 0


NO_TIMES = Times()


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an object is to be: mode with type, owner, times, and what its type needs.

    Args:
        size: of a regular file, bytes that will be written.
        target: of a symbolic link.
        device: major and minor of a device.
        xattrs: full name to value.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    times: Times = NO_TIMES
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Inode:
    """One object; `children` is None for all but directories."""

    __slots__ = (
        "area",
        "blocks",
        "children",
        "flags",
        "gid",
        "links",
        "mode",
        "number",
        "size",
        "times",
        "uid",
        "xattr_block",
        "xattr_bytes",
        "xattr_inline",
    )

    def __init__(self, number: int, *, directory: bool) -> None:
        self.number = number
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size = 0
        self.times = NO_TIMES
        self.links = 1 if directory else 0
        self.blocks = 0
        self.flags = 0
        self.area = b""
        self.xattr_block = 0
        self.xattr_bytes = b""
        self.xattr_inline = b""
        self.children: dict[bytes, Inode] | None = {} if directory else None

    def sorted_children(self) -> list[tuple[bytes, Inode]]:
        """Names and objects by inode number, then by name."""
        children = self.children or {}
        return sorted(children.items(), key=lambda item: (item[1].number, item[0]))

    def encode(self) -> bytes:
        """The 256 bytes in the inode table."""
        return encode_inode(
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            size=self.size,
            times=self.times,
            links=self.links,
            blocks=self.blocks,
            flags=self.flags,
            block_area=self.area,
            xattr_block=self.xattr_block,
            xattr_inline=self.xattr_inline,
        )


def split_path(name: bytes) -> Path:
    """The parts of a name, cleaned as an absolute path: no empty ones, no dots; empty for the root."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return tuple(parts)


def show(path: Path) -> str:
    """A path for people: bounded, with odd bytes escaped."""
    text = b"/".join((b"", *path)).decode("utf-8", "backslashreplace") or "/"
    text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"
