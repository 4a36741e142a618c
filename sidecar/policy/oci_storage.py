"""Images in the local store of buildah and podman, read as it lies on disk.

The store keeps a layer unpacked, and beside it a list (tar-split) of everything of its archive that is not
file content. Both together give the archive back, byte for byte; its digest is checked like any other's.
Files are opened part by part below the layer's folder, so that no link in an image leads out of it.

Spec: containers-storage(1), the layout of its `vfs` and `overlay` drivers; the tar-split project's format.

Kind: adapter
"""

from __future__ import annotations

import base64
import binascii
import errno
import gzip
import os
import stat
import tomllib
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sidecar.errors import LayerRejected, MalformedInput, UsageError
from sidecar.policy.images_names import HUB, HUB_HOST, StorageName, parse_registry_name
from sidecar.policy.oci import (
    MAX_DOCUMENT,
    MAX_LAYERS,
    Platform,
    check_bytes,
    check_digest,
    check_platform,
    choose,
    parse_config,
    parse_manifest,
)
from sidecar.policy.oci_source import LayerSource, OpenedImage
from sidecar.policy.tar_input import ByteStream
from sidecar.strictjson import JsonObject, as_list, as_object, as_text, load_json, optional_text, text_member

DRIVERS = ("overlay", "vfs")
_MAX_LIST = 64 << 20  # bytes of layers.json and images.json
_MAX_LINE = 4 << 20  # a line of tar-split holds headers and padding of one file
_MAX_IMAGES = 65536
_MAX_LINKS = 40
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class _Store:
    driver: str
    root: Path

    def images(self) -> Path:
        return self.root / f"{self.driver}-images"

    def layers(self) -> Path:
        return self.root / f"{self.driver}-layers"

    def content(self, layer: str) -> Path:
        """Where a layer lies unpacked."""
        return (
            self.root / "vfs" / "dir" / layer
            if self.driver == "vfs"
            else self.root / "overlay" / layer / "diff"
        )


def open_stored(name: StorageName, platform: Platform, environ: Mapping[str, str]) -> OpenedImage:
    """An image of the user's own store, or of the one that the name says.

    Raises:
        UsageError: there is no such store or image, or it may not be read.
        MalformedInput, DigestMismatch: the store is damaged.
    """
    store = _find_store(name, environ)
    what = f"{store.root}: {name.name}"
    image = _find_image(store, name.name)
    folder = store.images() / _identifier(text_member(image, "id", what), what)
    digest, manifest_data = _manifest(folder, image, platform, what)
    manifest = parse_manifest(manifest_data, f"{what}: manifest")
    if isinstance(manifest, tuple):
        raise MalformedInput(f"{what}: an index in place of a manifest")
    config_data = _big_data(folder, manifest.config.digest)
    check_bytes(config_data, manifest.config.digest, f"{what}: config")
    config = parse_config(config_data, f"{what}: config")
    check_platform(config, platform, what)
    chain = _chain(store, optional_text(image, "layer", what) or "", what)
    if len(chain) != len(config.diff_ids):
        raise MalformedInput(
            f"{what}: {len(chain)} layers, but {len(config.diff_ids)} diff_ids in its config"
        )
    layers = tuple(
        LayerSource(diff_id, None, diff_id, _Opener(store, layer))
        for layer, diff_id in zip(chain, config.diff_ids, strict=True)
    )
    return OpenedImage(what, digest, config, layers)


@dataclass(frozen=True, slots=True)
class _Opener:
    store: _Store
    layer: str

    @contextmanager
    def _open(self) -> Iterator[ByteStream]:
        path = self.store.layers() / f"{self.layer}.tar-split.gz"
        try:
            root = os.open(self.store.content(self.layer), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with gzip.open(path) as file:
                    yield _Assembled(_parts(file, root, str(path)))
            finally:
                os.close(root)
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise MalformedInput(f"{path}: {exc}") from exc
        except OSError as exc:
            raise _unreadable(path, exc) from exc

    __call__ = _open


class _Assembled:
    """The pieces of an archive as one stream."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._part = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._part = memoryview(part)
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        return count


def _parts(file: gzip.GzipFile, root: int, what: str) -> Iterator[bytes]:
    """An archive's bytes: lines of type 2 hold them, those of type 1 name a file that does."""
    while line := file.readline(_MAX_LINE + 1):
        if len(line) > _MAX_LINE:
            raise MalformedInput(f"{what}: a line of over {_MAX_LINE} bytes")
        entry = as_object(load_json(line, what=what, max_bytes=_MAX_LINE), what)
        if entry.get("type") == 2:
            yield _decoded(entry.get("payload"), what)
        elif entry.get("type") == 1:
            size = entry.get("size", 0)
            if isinstance(size, int) and size > 0:
                name = _decoded(entry["name_raw"], what) if "name_raw" in entry else _name(entry, what)
                yield from _content(root, name, size, what)
        else:
            raise MalformedInput(f"{what}: an entry of unknown type")


def _name(entry: JsonObject, what: str) -> bytes:
    return text_member(entry, "name", what).encode()


def _decoded(value: object, what: str) -> bytes:
    try:
        return base64.b64decode(as_text(value, what, max_length=_MAX_LINE), validate=True)
    except binascii.Error:
        raise MalformedInput(f"{what}: an entry that is not base64") from None


def _content(root: int, name: bytes, size: int, what: str) -> Iterator[bytes]:
    fd = _open_below(root, name)
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise LayerRejected(f"{what}: {name[:200]!r} is no regular file in the store")
        while size:
            part = file.read(min(size, 1 << 20))
            if not part:
                raise LayerRejected(f"{what}: {name[:200]!r} is shorter in the store than in its layer")
            size -= len(part)
            yield part


def _open_below(root: int, name: bytes) -> int:
    """Open a file below a folder; links are followed as if the folder were the root."""
    waiting = deque(name.split(b"/"))
    stack = [os.dup(root)]
    links = 0
    try:
        while waiting:
            part = waiting.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if len(stack) > 1:
                    os.close(stack.pop())
                continue
            target = _link_target(stack[-1], part)
            if target is None:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
                stack.append(os.open(part, flags, dir_fd=stack[-1]))
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith(b"/"):
                while len(stack) > 1:
                    os.close(stack.pop())
            waiting.extendleft(reversed(target.split(b"/")))
        return os.dup(stack[-1])
    finally:
        for fd in stack:
            os.close(fd)


def _link_target(folder: int, name: bytes) -> bytes | None:
    with suppress(OSError):
        return os.readlink(name, dir_fd=folder)
    return None


def _find_store(name: StorageName, environ: Mapping[str, str]) -> _Store:
    configured_driver, configured_root = _configured(environ)
    root = Path(name.root or configured_root)
    wanted = name.driver or configured_driver
    for driver in (wanted,) if wanted else DRIVERS:
        if driver not in DRIVERS:
            raise UsageError(f"store driver {driver!r}, wanted one of {', '.join(DRIVERS)}")
        store = _Store(driver, root)
        if store.images().is_dir():
            return store
    raise UsageError(
        f"{root}: no image store{f' of driver {wanted}' if wanted else ''}",
        hint="name it: containers-storage:[DRIVER@/path/of/the/store]NAME",
    )


def _configured(environ: Mapping[str, str]) -> tuple[str, str]:
    """Driver (empty for any) and root of the user's own store."""
    home = Path(environ.get("HOME") or "/")
    if os.geteuid() == 0:
        files, root = [Path("/etc/containers/storage.conf")], "/var/lib/containers/storage"
    else:
        files = [Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "storage.conf"]
        data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
        root = str(data / "containers" / "storage")
    if named := environ.get("CONTAINERS_STORAGE_CONF"):
        files = [Path(named)]
    driver = environ.get("STORAGE_DRIVER", "")
    for path in files:
        with suppress(FileNotFoundError):
            try:
                section = tomllib.loads(path.read_text()).get("storage", {})
            except (OSError, ValueError) as exc:
                if isinstance(exc, FileNotFoundError):
                    raise
                raise UsageError(f"{path}: {exc}") from exc
            if isinstance(section, dict):
                driver = driver or str(section.get("driver", ""))
                root = str(section.get("graphroot") or root)
    return driver, root


def _find_image(store: _Store, name: str) -> JsonObject:
    path = store.images() / "images.json"
    images = [as_object(entry, str(path)) for entry in _list(path)]
    wanted = _long_name(name)
    for image in images:
        names = as_list(image.get("names") or [], f"{path}: names", max_items=1024)
        if name == image.get("id") or any(_same(text, name, wanted) for text in names):
            return image
    known = sorted({str(text) for image in images for text in as_list(image.get("names") or [], str(path))})
    raise UsageError(f"{store.root}: no image {name}; it names {', '.join(known[:16]) or 'none'}")


def _same(stored: object, name: str, wanted: str) -> bool:
    return stored in (name, wanted) or stored in (
        f"{name}:latest",
        f"localhost/{name}",
        f"localhost/{name}:latest",
    )


def _long_name(name: str) -> str:
    """The form in which the store keeps names."""
    with suppress(UsageError, MalformedInput):
        parsed = parse_registry_name(name)
        host = HUB if parsed.host == HUB_HOST else parsed.host
        tail = f"@{parsed.digest}" if parsed.digest else f":{parsed.reference}"
        return f"{host}/{parsed.path}{tail}"
    return name


def _manifest(folder: Path, image: JsonObject, platform: Platform, what: str) -> tuple[str, bytes]:
    """The image's manifest and its digest; where it came from an index, the manifest of the platform."""
    digest = check_digest(text_member(image, "digest", what), what)
    data = _big_data(folder, f"manifest-{digest}")
    check_bytes(data, digest, f"{what}: manifest")
    parsed = parse_manifest(data, f"{what}: manifest")
    if isinstance(parsed, tuple):
        digest = choose(parsed, platform, what).digest
        data = _big_data(folder, f"manifest-{digest}")
        check_bytes(data, digest, f"{what}: manifest")
    return digest, data


def _big_data(folder: Path, key: str) -> bytes:
    """A document of an image; a key that is no plain word is kept under its base64."""
    plain = all(char.islower() or char.isdigit() or char == "-" for char in key)
    file = folder / (key if plain else "=" + base64.urlsafe_b64encode(key.encode()).decode())
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_DOCUMENT + 1)
    except OSError as exc:
        raise _unreadable(file, exc) from exc
    if len(data) > MAX_DOCUMENT:
        raise MalformedInput(f"{file}: over {MAX_DOCUMENT} bytes")
    return data


def _chain(store: _Store, top: str, what: str) -> list[str]:
    """The identifiers of an image's layers, base first."""
    path = store.layers() / "layers.json"
    parents: dict[str, str] = {}
    for entry in _list(path):
        layer = as_object(entry, str(path))
        parents[text_member(layer, "id", str(path))] = optional_text(layer, "parent", str(path)) or ""
    chain: list[str] = []
    while top:
        if top not in parents or len(chain) >= MAX_LAYERS:
            raise MalformedInput(f"{what}: layer {top[:80]} is missing, or its parents form a circle")
        chain.append(_identifier(top, what))
        top = parents[top]
    return chain[::-1]


def _identifier(text: str, what: str) -> str:
    """It becomes part of a path."""
    if len(text) != 64 or set(text) - _HEX:
        raise MalformedInput(f"{what}: identifier {text[:80]!r}, wanted 64 hex digits")
    return text


def _list(path: Path) -> list[object]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_LIST + 1)
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    return as_list(load_json(data, what=str(path), max_bytes=_MAX_LIST), str(path), max_items=_MAX_IMAGES)


def _unreadable(path: Path, exc: OSError) -> UsageError:
    hint = (
        "run as the store's owner, for example under `buildah unshare`" if exc.errno == errno.EACCES else ""
    )
    return UsageError(f"{path}: {exc.strerror or exc}", hint=hint)
