"""The compact ext4 image that the guest's host makes of an image layer, written once from front to back.

Strategy: file data goes straight to a sink as it comes; only the names and inodes are kept. The superblock
and the group descriptors, known last, and an attribute block that is rewritten are the only blocks that a
sink sees twice. What the converter refuses is refused; a case where its result is no sound file system, or
depends on luck, is refused by name.

Spec: hcsshim's compactext4, for an image of at most 128 GiB, without inline data.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from sidecar.errors import LayerRejected, LayerUnpredictable
from sidecar.policy import ext4_xattr
from sidecar.policy.ext4_format import (
    BLOCK,
    BLOCK_DEVICE,
    BLOCKS_PER_GROUP,
    CHARACTER,
    DESCRIPTORS_PER_BLOCK,
    DIRECTORY,
    EXTENTS_FLAG,
    EXTENTS_PER_BLOCK,
    FIRST_INODE,
    HUGE_FILE_FLAG,
    MAX_EXTENT,
    MAX_LINKS,
    REGULAR,
    ROOT_INODE,
    SHORT_SYMLINK,
    SYMLINK,
    TYPE_MASK,
    copy_time,
    device_area,
    extent_count,
    extent_index,
    extent_leaf,
    extent_root,
)
from sidecar.policy.ext4_inode import Attributes, Inode, Path, Times, show

RESERVED_SIZE = 128 << 30
# With more extents the reference writes a broken index (it miscounts the second leaf).
MAX_FILE = (EXTENTS_PER_BLOCK - 1) * MAX_EXTENT * BLOCK
MAX_NAME = 255
# Bounds of memory: an inode costs about half a KiB here.
MAX_INODES = 1 << 20
MAX_IMPLICIT_SHOWN = 16
MAX_KEPT_ATTRIBUTES = 32 << 20  # bytes of attribute blocks of directories


class BlockSink(Protocol):
    """Takes an image's blocks of 4096 bytes, in order."""

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Append whole blocks; the bytes must not be kept."""
        ...

    def add_zeros(self, count: int) -> None:
        """Append blocks of zeros."""
        ...

    def keep(self, block: int) -> None:
        """This block may be replaced later."""
        ...

    def replace(self, block: int, data: bytes) -> None:
        """Write a block again that was announced with `keep`."""
        ...


class Ext4Writer:
    """Writes one image to a sink.

    Use: for each object `make_parents`, then `create` or `link`; after `create` of a regular file exactly
    `size` bytes through `write`; at the end ext4_close.close.

    Args:
        sink: where the blocks go.
        reserved: bytes that the descriptors must be able to describe; the image cannot grow beyond.

    Raises:
        LayerRejected: all methods, for what the reference refuses or what exceeds a bound.
        LayerUnpredictable: all methods, for what the reference does not do reliably.
    """

    def __init__(self, sink: BlockSink, *, reserved: int = RESERVED_SIZE) -> None:
        self.sink = sink
        self.block = 0
        self.inodes: list[Inode | None] = []
        self.implicit: list[Path] = []
        self.implicit_count = 0
        self._kept_attributes = 0
        self._max_blocks = -(-reserved // BLOCK)
        groups = -(-self._max_blocks // BLOCKS_PER_GROUP)
        self.descriptor_blocks = -(-groups // DESCRIPTORS_PER_BLOCK)
        self._current: Inode | None = None
        self._current_path: Path = ()
        self._left = 0
        self._start = 0
        self._tail = bytearray()
        self._init()

    def _init(self) -> None:
        for block in range(1 + self.descriptor_blocks):
            self.sink.keep(block)
        self._add_zeros(1 + self.descriptor_blocks, ())
        self.inodes = [None] * (FIRST_INODE - 1)
        self.root = Inode(ROOT_INODE, directory=True)
        self.root.links = 2
        self._fill(self.root, Attributes(DIRECTORY | 0o755), ())
        self.inodes[ROOT_INODE - 1] = self.root
        self.create((b"lost+found",), Attributes(DIRECTORY | 0o700))

    # -- names ------------------------------------------------------------------------------------

    def make_parents(self, path: Path) -> None:
        """Create what is missing above a path, each directory a copy of the one above it."""
        self._finish()
        directory = self.root
        for depth in range(1, len(path)):
            if directory.children is None:
                raise LayerRejected(f"{show(path)}: path not found, {show(path[: depth - 1])} is a file")
            child = directory.children.get(path[depth - 1])
            if child is None:
                child = self._make_parent(directory, path[:depth])
            directory = child

    def _make_parent(self, above: Inode, path: Path) -> Inode:
        self.implicit_count += 1
        if len(self.implicit) < MAX_IMPLICIT_SHOWN:
            self.implicit.append(path)
        return self._create_in(above, None, path, self._copy_of(above))

    def find(self, path: Path) -> Inode | None:
        """The object at a path; links are not followed."""
        node: Inode | None = self.root
        for part in path:
            node = None if node is None or node.children is None else node.children.get(part)
        return node

    def create(self, path: Path, attributes: Attributes) -> None:
        """Create an object, or make an existing one what `attributes` say."""
        self._finish()
        parent, existing = self._lookup(path)
        self._create_in(parent, existing, path, attributes)

    def _create_in(self, parent: Inode, existing: Inode | None, path: Path, attributes: Attributes) -> Inode:
        self._check_name(path)
        is_directory = attributes.mode & TYPE_MASK == DIRECTORY
        reuse: Inode | None = None
        if existing is not None:
            if (existing.children is not None) != is_directory:
                kinds = ("directory", "file") if existing.children is not None else ("file", "directory")
                raise LayerRejected(f"{show(path)}: cannot replace a {kinds[0]} with a {kinds[1]}")
            if is_directory or existing.links < 2:
                reuse = existing
        elif is_directory and parent.links >= MAX_LINKS:
            raise LayerRejected(f"{show(path)}: over {MAX_LINKS} directories in one")
        child = reuse or self._new_inode(path, directory=is_directory)
        self._fill(child, attributes, path)
        if child is not existing:
            self._enter(parent, path[-1], child, existing)
        if child.mode & TYPE_MASK == REGULAR:
            self._begin(child, attributes.size, path)
        return child

    def link(self, target: Path, path: Path) -> None:
        """Add a name of an existing object that is no directory."""
        self._finish()
        parent, existing = self._lookup(path)
        self._check_name(path)
        if existing is not None and (existing.children is not None or existing.links < 2):
            raise LayerRejected(f"{show(path)}: cannot replace what is there with a hard link")
        found = self.find(target)
        if found is None:
            raise LayerRejected(f"{show(path)}: hard link to {show(target)}: file not found")
        if found.children is not None:
            raise LayerRejected(f"{show(path)}: hard link to {show(target)}, which is a directory")
        if existing is not found and found.links >= MAX_LINKS:
            raise LayerRejected(f"{show(path)}: over {MAX_LINKS} hard links to {show(target)}")
        if existing is not None:
            existing.links -= 1
        found.links += 1
        assert parent.children is not None
        parent.children[path[-1]] = found

    def make_opaque(self, path: Path) -> None:
        """Mark a directory as hiding what lower layers have in it."""
        self._finish()
        node = self.find(path)
        if node is None:
            raise LayerRejected(f"{show(path)}: opaque whiteout in a directory that is not there")
        if node.children is None:
            raise LayerRejected(f"{show(path)}: opaque whiteout in a file")
        xattrs = ext4_xattr.read_block(node.xattr_bytes, show(path))
        xattrs |= ext4_xattr.read_inline(node.xattr_inline)
        xattrs[b"trusted.overlay.opaque"] = b"y"
        self.create(path, self._copy_of(node, xattrs))

    def _copy_of(self, node: Inode, xattrs: dict[bytes, bytes] | None = None) -> Attributes:
        times = Times(*map(copy_time, node.times))
        return Attributes(node.mode, node.uid, node.gid, times, xattrs=xattrs or {})

    def _lookup(self, path: Path) -> tuple[Inode, Inode | None]:
        """The directory of a path, and the object (None where there is none)."""
        if not path:
            return self.root, self.root
        parent = self.find(path[:-1])
        if parent is None or parent.children is None:
            raise LayerRejected(f"{show(path)}: path not found")
        return parent, parent.children.get(path[-1])

    @staticmethod
    def _check_name(path: Path) -> None:
        if path and len(path[-1]) > MAX_NAME:
            raise LayerRejected(f"{show(path)}: a name of {len(path[-1])} bytes, at most {MAX_NAME}")

    def _new_inode(self, path: Path, *, directory: bool) -> Inode:
        if len(self.inodes) >= MAX_INODES:
            raise LayerRejected(f"{show(path)}: over {MAX_INODES} files in one layer")
        return Inode(len(self.inodes) + 1, directory=directory)

    @staticmethod
    def _enter(parent: Inode, name: bytes, child: Inode, existing: Inode | None) -> None:
        if existing is not None:
            existing.links -= 1
        assert parent.children is not None
        parent.children[name] = child
        child.links += 1
        if child.children is not None:
            parent.links += 1

    # -- inodes -----------------------------------------------------------------------------------

    def _fill(self, node: Inode, attributes: Attributes, path: Path) -> None:
        """Make an inode what `attributes` say; what lies in its attribute area stays."""
        if node.flags & EXTENTS_FLAG:
            raise LayerRejected(
                f"{show(path)}: cannot overwrite a file that has content",
                hint="the archive holds this file twice; rebuild the image so that it holds it once",
            )
        kind = attributes.mode & TYPE_MASK
        node.mode = attributes.mode | 0o777 if kind == SYMLINK else attributes.mode
        node.uid, node.gid, node.times = attributes.uid, attributes.gid, attributes.times
        node.flags = HUGE_FILE_FLAG
        node.area = b""
        if kind == SYMLINK and len(attributes.target) <= SHORT_SYMLINK:
            node.area = attributes.target
        elif kind in (CHARACTER, BLOCK_DEVICE):
            node.area = device_area(*attributes.device)
        if attributes.size > MAX_FILE:
            raise LayerUnpredictable(
                f"{show(path)}: {attributes.size} bytes; over {MAX_FILE} the converter writes a broken image"
            )
        if attributes.xattrs or node.xattr_inline or node.xattr_block:
            self._place_xattrs(node, attributes.xattrs, path)
        node.size = len(attributes.target) if kind == SYMLINK else 0
        if kind == SYMLINK and node.size > SHORT_SYMLINK:
            self._begin(node, node.size, path)
            self.write(attributes.target)
            self._finish()
        if node.number > len(self.inodes):
            self.inodes.append(node)

    def _place_xattrs(self, node: Inode, xattrs: dict[bytes, bytes], path: Path) -> None:
        placed = ext4_xattr.place(ext4_xattr.read_inline(node.xattr_inline) | xattrs, show(path))
        node.xattr_inline = placed.inline
        if not placed.block and not node.xattr_block:
            return
        block = placed.block or ext4_xattr.empty_block()
        if node.xattr_block:
            self.sink.replace(node.xattr_block, block)
        else:
            node.xattr_block = self.block
            node.blocks += 1
            self.sink.keep(self.block)
            self._add(block, path)
        if node.children is not None:
            self._kept_attributes += len(block) - len(node.xattr_bytes)
            node.xattr_bytes = block
            if self._kept_attributes > MAX_KEPT_ATTRIBUTES:
                raise LayerRejected(
                    f"{show(path)}: over {MAX_KEPT_ATTRIBUTES} bytes of attributes of directories"
                )

    # -- data -------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the file created last; whole blocks pass through without a copy."""
        view = memoryview(data)
        self._left -= len(view)
        if self._left < 0:
            raise LayerRejected(f"{show(self._current_path)}: more data than its header says")
        if self._tail:
            missing = BLOCK - len(self._tail)
            self._tail += view[:missing]
            view = view[missing:]
            if len(self._tail) < BLOCK:
                return
            self._add(self._tail, self._current_path)
            self._tail = bytearray()
        whole = len(view) // BLOCK * BLOCK
        if whole:
            self._add(view[:whole], self._current_path)
        self._tail += view[whole:]

    def write_zeros(self, count: int) -> None:
        """The next `count` bytes of the file created last are zeros."""
        head = min(count, -len(self._tail) % BLOCK)
        self.write(bytes(head))
        whole = (count - head) // BLOCK
        self._left -= whole * BLOCK
        if self._left < 0:
            raise LayerRejected(f"{show(self._current_path)}: more data than its header says")
        self._add_zeros(whole, self._current_path)
        self.write(bytes(count - head - whole * BLOCK))

    def write_directory(self, node: Inode, blocks: Iterator[bytes]) -> None:
        """A directory's blocks, at the end."""
        self._finish()
        self._start = self.block
        for block in blocks:
            self._add(block, ())
        node.size = (self.block - self._start) * BLOCK
        self._write_extents(node)

    def finish(self) -> None:
        """End the file created last; its data must be complete."""
        self._finish()

    def add_metadata(self, data: bytes) -> None:
        """Whole blocks that belong to no file."""
        self._add(data, ())

    def add_unused(self, count: int) -> None:
        """Blocks of zeros that belong to no file."""
        self._add_zeros(count, ())

    def _begin(self, node: Inode, size: int, path: Path) -> None:
        self._current, self._current_path = node, path
        self._left, self._start = size, self.block
        node.size = size

    def _finish(self) -> None:
        node = self._current
        if node is None:
            return
        if self._left:
            raise LayerRejected(f"{show(self._current_path)}: {self._left} bytes of data are missing")
        if self._tail:
            self._add(self._tail.ljust(BLOCK, b"\0"), self._current_path)
            self._tail = bytearray()
        self._current = None
        if node.size:
            self._write_extents(node)

    def _write_extents(self, node: Inode) -> None:
        """Describe the blocks from `_start` to here; they follow each other."""
        blocks = self.block - self._start
        node.blocks += blocks
        node.flags |= EXTENTS_FLAG
        if extent_count(blocks) <= 4:
            node.area = extent_root(self._start, blocks)
            return
        node.area = extent_index(self.block)
        node.blocks += 1
        self._add(extent_leaf(self._start, blocks), self._current_path)

    def _add(self, data: bytes | bytearray | memoryview, path: Path) -> None:
        self._advance(len(data) // BLOCK, path)
        self.sink.add(data)

    def _add_zeros(self, count: int, path: Path) -> None:
        self._advance(count, path)
        self.sink.add_zeros(count)

    def _advance(self, count: int, path: Path) -> None:
        if self.block + count > self._max_blocks:
            raise LayerRejected(f"{show(path)}: the layer's image exceeds {self._max_blocks * BLOCK} bytes")
        self.block += count
