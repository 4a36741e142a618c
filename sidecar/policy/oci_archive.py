"""Images in files: OCI layouts, OCI archives and what `docker save` writes.

An archive is indexed once by its headers and then read in place. Nothing is extracted, so no name in it can
reach a file outside.

Kind: adapter
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sidecar.errors import MalformedInput, UsageError
from sidecar.policy.oci import (
    MAX_DOCUMENT,
    MAX_LAYERS,
    Descriptor,
    Platform,
    check_platform,
    parse_config,
    parse_manifest,
)
from sidecar.policy.oci_source import LayerSource, OpenedImage, open_image
from sidecar.policy.tar_input import ByteStream
from sidecar.policy.tar_reader import TarReader
from sidecar.strictjson import as_list, as_object, as_text, load_json

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_MEMBERS = 65536
_LINKS = 8


class Folder(Protocol):
    """Named files, in a directory or in an archive."""

    def open(self, name: str) -> io.RawIOBase:
        """A file for reading; UsageError when there is none."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        ...


class Directory:
    """Files of a directory. A name leads nowhere else, and a file that is a link is refused."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def open(self, name: str) -> io.RawIOBase:
        path = self._path / name
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise UsageError(f"{self._path}: {name[:200]}: leads out of the folder")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise UsageError(f"{path}: is a symbolic link", hint="copy the folder with cp -rL") from exc
            raise UsageError(f"{path}: {exc.strerror}", hint="is the layout complete?") from exc
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise UsageError(f"{path}: not a regular file")
        return os.fdopen(fd, "rb", buffering=0)


class Archive:
    """Files of an uncompressed tar archive, read in place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        with _open_file(path) as file:
            self._check_kind(file)
            self._index(file)

    def has(self, name: str) -> bool:
        return self._resolve(name) in self._members

    def open(self, name: str) -> io.RawIOBase:
        found = self._members.get(self._resolve(name))
        if found is None:
            raise UsageError(
                f"{self._path}: holds no {name}", hint="the archive is incomplete; write it again"
            )
        return _Slice(_open_file(self._path), *found)

    def _check_kind(self, file: io.RawIOBase) -> None:
        head = file.read(2)
        file.seek(0)
        if head == b"\x1f\x8b":
            raise UsageError(f"{self._path}: is compressed", hint="unpack it with gunzip first")

    def _index(self, file: io.RawIOBase) -> None:
        reader = TarReader(_Stream(file), lambda size: file.seek(size, os.SEEK_CUR))
        for header in reader:
            name = os.path.normpath(header.name.decode("utf-8", "surrogateescape")).lstrip("/")
            if header.type == b"2":
                target = header.target.decode("utf-8", "surrogateescape")
                self._links[name] = os.path.normpath(os.path.join(os.path.dirname(name), target))
            elif header.type in (b"0", b"7"):
                self._members[name] = (reader.input.position, header.stored)
            if len(self._members) + len(self._links) > MAX_MEMBERS:
                raise MalformedInput(f"{self._path}: over {MAX_MEMBERS} files in an image archive")

    def _resolve(self, name: str) -> str:
        name = os.path.normpath(name)
        for _ in range(_LINKS):
            if name not in self._links:
                break
            name = self._links[name]
        return name


class LayoutStore:
    """The blobs of an OCI layout."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        self._name = name

    def document(self, descriptor: Descriptor) -> bytes:
        return _read(self._folder, _blob_name(descriptor.digest), self._name)

    @contextmanager
    def blob(self, descriptor: Descriptor) -> Iterator[ByteStream]:
        with closing(self._folder.open(_blob_name(descriptor.digest))) as file:
            yield _Stream(file)


def open_layout(folder: Folder, reference: str, platform: Platform, name: str) -> OpenedImage:
    """An image of an OCI layout.

    Args:
        reference: the tag or name it has in the layout; may be empty when there is but one image.

    Raises:
        UsageError: no such image, or several fit.
        MalformedInput, DigestMismatch: the layout is malformed.
    """
    data = _read(folder, "index.json", name)
    entries = parse_manifest(data, f"{name}: index.json")
    if not isinstance(entries, tuple):
        raise MalformedInput(f"{name}: index.json is no index")
    named = [entry for entry in entries if not reference or reference in (*entry.names, entry.digest)]
    store = LayoutStore(folder, name)
    if len(named) == 1:
        return open_image(store, named[0], platform, name)
    for_platform = [entry for entry in named if entry.platform == platform]
    if len(for_platform) == 1:
        return open_image(store, for_platform[0], platform, name)
    raise UsageError(_which(name, reference, len(named), [text for entry in entries for text in entry.names]))


def open_docker_archive(folder: Folder, reference: str, platform: Platform, name: str) -> OpenedImage:
    """An image of an archive made by `docker save`.

    Raises:
        UsageError: no such image, or several and none named.
        MalformedInput: the archive is malformed.
    """
    what = f"{name}: manifest.json"
    entries = as_list(
        load_json(_read(folder, "manifest.json", name), what=what, max_bytes=MAX_DOCUMENT),
        what,
        max_items=1024,
    )
    images = [as_object(entry, what) for entry in entries]
    tags = [_texts(image.get("RepoTags"), f"{what}: RepoTags") for image in images]
    fitting = [i for i, names in enumerate(tags) if not reference or _same(reference, names)]
    if len(fitting) != 1:
        raise UsageError(_which(name, reference, len(fitting), [text for names in tags for text in names]))
    image = images[fitting[0]]
    data = _read(folder, as_text(image.get("Config"), f"{what}: Config"), name)
    config = parse_config(data, f"{name}: config")
    check_platform(config, platform, name)
    paths = _texts(image.get("Layers"), f"{what}: Layers")
    if len(paths) != len(config.diff_ids):
        raise MalformedInput(
            f"{name}: {len(paths)} layers, but {len(config.diff_ids)} diff_ids in its config"
        )
    layers = tuple(
        # The archive may hold them compressed, and says no digest of that.
        LayerSource(None, None, diff_id, _opener(folder, path))
        for path, diff_id in zip(paths, config.diff_ids, strict=True)
    )
    return OpenedImage(name, "", config, layers)


def open_path(path: Path, reference: str, platform: Platform) -> OpenedImage:
    """An image in a directory or an archive of either kind.

    Raises:
        UsageError: there is nothing of the kind.
        MalformedInput, DigestMismatch: it is malformed.
    """
    folder: Folder = Directory(path) if path.is_dir() else Archive(path)
    name = str(path)
    if folder.has("manifest.json"):
        return open_docker_archive(folder, reference, platform, name)
    if folder.has("index.json"):
        return open_layout(folder, reference, platform, name)
    raise UsageError(
        f"{path}: holds neither manifest.json (docker save) nor index.json (OCI layout)",
        hint="write it with `docker save`, `podman save` or `skopeo copy`",
    )


class _Stream:
    """A file as a ByteStream; a read error is a UsageError that names the file."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            return self._file.readinto(buffer) or 0
        except OSError as exc:
            raise UsageError(f"{getattr(self._file, 'name', 'file')}: {exc.strerror}") from exc


class _Slice(io.RawIOBase):
    """Some bytes of a file, which it owns."""

    def __init__(self, file: io.RawIOBase, start: int, size: int) -> None:
        super().__init__()
        self.name = getattr(file, "name", "file")
        self._file = file
        self._left = size
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")[: self._left]
        count: int = self._file.readinto(view) or 0
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_file(path: Path) -> io.RawIOBase:
    try:
        return path.open("rb", buffering=0)
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from exc


def _read(folder: Folder, name: str, what: str) -> bytes:
    """A small file."""
    with closing(folder.open(name)) as file:
        data = bytearray()
        try:
            while len(data) <= MAX_DOCUMENT and (part := file.read(MAX_DOCUMENT + 1 - len(data))):
                data += part
        except OSError as exc:
            raise UsageError(f"{what}: {name}: {exc.strerror}") from exc
    if len(data) > MAX_DOCUMENT:
        raise MalformedInput(f"{what}: {name} has over {MAX_DOCUMENT} bytes")
    return bytes(data)


def _blob_name(digest: str) -> str:
    kind, _, value = digest.partition(":")
    return f"blobs/{kind}/{value}"


def _opener(folder: Folder, path: str) -> Callable[[], AbstractContextManager[ByteStream]]:
    @contextmanager
    def opened() -> Iterator[ByteStream]:
        with closing(folder.open(path)) as file:
            yield _Stream(file)

    return opened


def _same(reference: str, names: list[str]) -> bool:
    """Whether an image has this name, `latest` and the short forms of Docker's own registry understood."""
    wanted = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
    return any(name == wanted or name.endswith(f"/{wanted}") for name in names)


def _texts(value: object, what: str) -> list[str]:
    if value is None:
        return []
    return [as_text(item, what, max_length=1024) for item in as_list(value, what, max_items=MAX_LAYERS)]


def _which(name: str, reference: str, found: int, offered: list[str]) -> str:
    wanted = f"image {reference}" if reference else "one image"
    return f"{name}: {found} images fit, wanted {wanted}; it names {', '.join(offered[:16]) or 'none'}"
