"""The root hash of an image layer: tar -> compact ext4 -> dm-verity, in one pass over the stream.

The guest mounts a layer only when its root hash is in the policy, so this must give bit for bit what the
host's converter gives. It holds names and inodes, never file data.

Spec: hcsshim's tar2ext4 with whiteout conversion, and its dmverity.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.errors import LayerRejected
from sidecar.policy import ext4_close
from sidecar.policy.ext4 import RESERVED_SIZE, BlockSink, Ext4Writer
from sidecar.policy.ext4_format import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    REGULAR,
    SYMLINK,
    TYPE_MASK,
    encode_time,
)
from sidecar.policy.ext4_inode import Attributes, Times, show, split_path
from sidecar.policy.layers_files import FileTracker, TrackedFiles
from sidecar.policy.tar_header import Header, Time
from sidecar.policy.tar_input import ByteStream
from sidecar.policy.tar_reader import TarReader
from sidecar.policy.verity import HashTree

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
# Longest path that any system could open.
MAX_PATH = 4096
_MODES = {b"2": SYMLINK, b"3": CHARACTER, b"4": BLOCK_DEVICE, b"5": DIRECTORY, b"6": FIFO}


@dataclass(frozen=True, slots=True)
class LayerHash:
    """What a layer amounts to.

    Args:
        root_hash: 64 hex digits, as in a policy's `layers`.
        image_size: bytes of the ext4 image.
        implicit_parents: directories that the layer uses and does not describe; the first 16.
        implicit_count: how many of them.
        files: what the layer does to /etc/passwd and /etc/group.
    """

    root_hash: str
    image_size: int
    implicit_parents: tuple[str, ...]
    implicit_count: int
    files: TrackedFiles


def layer_root_hash(tar_stream: ByteStream) -> str:
    """The dm-verity root hash of an uncompressed layer, 64 hex digits; see `hash_layer`."""
    return hash_layer(tar_stream).root_hash


def hash_layer(tar_stream: ByteStream) -> LayerHash:
    """Hash an uncompressed layer.

    Args:
        tar_stream: read to its end, so that whoever made it sees every byte.

    Raises:
        LayerRejected: not a tar archive that the reference takes, or beyond a bound.
        LayerUnpredictable: the reference may give another result on each run.
    """
    tree = HashTree()
    files = FileTracker()
    writer, size = _convert(tar_stream, tree, files, RESERVED_SIZE)
    return LayerHash(
        root_hash=tree.root().hex(),
        image_size=size * BLOCK,
        implicit_parents=tuple(map(show, writer.implicit)),
        implicit_count=writer.implicit_count,
        files=files.result(),
    )


def convert(tar_stream: ByteStream, sink: BlockSink, *, reserved: int = RESERVED_SIZE) -> int:
    """Write a layer's ext4 image to a sink; returns its size in blocks. Raises as `hash_layer` does."""
    return _convert(tar_stream, sink, FileTracker(), reserved)[1]


def _convert(
    stream: ByteStream, sink: BlockSink, files: FileTracker, reserved: int
) -> tuple[Ext4Writer, int]:
    reader = TarReader(stream)
    writer = Ext4Writer(sink, reserved=reserved)
    for header in reader:
        _take_entry(reader, writer, header, files)
    size = ext4_close.close(writer)
    reader.input.drain()
    return writer, size


def _take_entry(reader: TarReader, writer: Ext4Writer, header: Header, files: FileTracker) -> None:
    if len(header.name) > MAX_PATH or len(header.target) > MAX_PATH:
        raise LayerRejected(
            f"tar: a path of {max(len(header.name), len(header.target))} bytes, at most {MAX_PATH}"
        )
    path = split_path(header.name)
    writer.make_parents(path)
    # Not the cleaned path: a name that ends in a slash has no last part, and is no whiteout.
    directory, _, last = header.name.rpartition(b"/")
    if last.startswith(WHITEOUT):
        _take_whiteout(writer, split_path(directory), last, files)
    elif header.type == b"1":
        writer.link(split_path(header.target), path)
        files.forget(path)
    else:
        attributes = _attributes(header)
        writer.create(path, attributes)
        if attributes.mode & TYPE_MASK == REGULAR:
            _copy_data(reader, writer, files.start(path, attributes.size))
        else:
            files.replace(path, directory=attributes.mode & TYPE_MASK == DIRECTORY)


def _take_whiteout(writer: Ext4Writer, directory: tuple[bytes, ...], last: bytes, files: FileTracker) -> None:
    if last == OPAQUE:
        writer.make_opaque(directory)
        files.hide_below(directory)
        return
    name = last[len(WHITEOUT) :]
    path = split_path(b"/".join((*directory, name)))
    writer.create(path, Attributes(CHARACTER))
    files.remove(path)


def _copy_data(reader: TarReader, writer: Ext4Writer, keep: bytearray | None) -> None:
    for part in reader.data():
        if isinstance(part, int):
            writer.write_zeros(part)
        else:
            writer.write(part)
        if keep is not None:
            keep.extend(bytes(part) if isinstance(part, int) else part)


def _attributes(header: Header) -> Attributes:
    kind = _MODES.get(header.type, REGULAR)
    modified = _time(header.modified)
    return Attributes(
        mode=header.mode & 0xFFF | kind,
        uid=header.uid & 0xFFFFFFFF,
        gid=header.gid & 0xFFFFFFFF,
        times=Times(_time(header.accessed), _time(header.changed), modified, modified),
        size=header.size if kind == REGULAR else 0,
        target=header.target if kind == SYMLINK else b"",
        device=(header.device[0] & 0xFFFFFFFF, header.device[1] & 0xFFFFFFFF),
        xattrs=header.xattrs,
    )


def _time(time: Time | None) -> int:
    return 0 if time is None else encode_time(*time)
