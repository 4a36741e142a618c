"""Results of hashed layers on disk, by the layer's digest: an image that grew costs only its new layers.

One small JSON file a layer in the user's cache folder. A file is written whole or not at all; one that is
malformed, names another layer, or does not fit its own checksum counts as not there. What lies here decides
what a policy admits, so a folder that others could write to is not used.

Kind: adapter
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidecar.errors import MalformedInput
from sidecar.policy.layers import LayerHash
from sidecar.policy.layers_files import MAX_FILE, FileChange, TrackedFiles
from sidecar.strictjson import (
    JsonObject,
    as_bool,
    as_int,
    as_list,
    as_object,
    as_text,
    dump_json,
    load_json,
    member,
    object_member,
    text_member,
)

log = logging.getLogger(__name__)

# Raised whenever the same layer would give another record.
_VERSION = 1
_MAX_RECORD = 4 * MAX_FILE
_HEX = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """A layer's result, and its digest uncompressed."""

    diff_id: str
    result: LayerHash


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Where results are kept: under XDG_CACHE_HOME, else under the home folder's .cache."""
    base = environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path(environ.get("HOME") or "~").expanduser() / ".cache"
    return root / "attested-volumes" / "layers"


class LayerCache:
    """Results in a folder; without a folder nothing is kept.

    Failures to read or write are logged and cost only time.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def get(self, digest: str) -> CachedLayer | None:
        """The result for a layer, None where there is none to be trusted."""
        path = self._path(digest)
        if path is None or not self._usable():
            return None
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_RECORD + 1)
            return _parse(data, digest)
        except FileNotFoundError:
            return None
        except (OSError, MalformedInput) as exc:
            log.info("cached layer %s is not used: %s", path, exc)
            return None

    def put(self, digest: str, layer: CachedLayer) -> None:
        """Keep a result."""
        path = self._path(digest)
        if path is None:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._usable():
                return
            with temporary.open("xb") as file:
                file.write(_build(layer, digest))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as exc:
            log.info("layer %s is not cached: %s", digest, exc)
            with suppress(OSError):
                temporary.unlink()

    def _path(self, digest: str) -> Path | None:
        return None if self._directory is None else self._directory / f"{digest.replace(':', '-')}.json"

    def _usable(self) -> bool:
        assert self._directory is not None
        try:
            found = self._directory.stat()
        except FileNotFoundError:
            return False
        except OSError as exc:
            log.info("cache %s: %s", self._directory, exc)
            return False
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            log.info("cache %s is not used: others may write to it", self._directory)
            return False
        return True


def _build(layer: CachedLayer, digest: str) -> bytes:
    result = layer.result
    record: JsonObject = {
        "version": _VERSION,
        "layer": digest,
        "diff_id": layer.diff_id,
        "root_hash": result.root_hash,
        "image_size": result.image_size,
        "implicit_parents": list(result.implicit_parents),
        "implicit_count": result.implicit_count,
        "passwd": _change_to_json(result.files.passwd),
        "group": _change_to_json(result.files.group),
    }
    return dump_json({"record": record, "sha256": hashlib.sha256(dump_json(record)).hexdigest()})


def _parse(data: bytes, digest: str) -> CachedLayer:
    what = "cache record"
    document = as_object(load_json(data, what=what, max_bytes=_MAX_RECORD), what)
    record = object_member(document, "record", what)
    if hashlib.sha256(dump_json(record)).hexdigest() != document.get("sha256"):
        raise MalformedInput(f"{what}: its checksum is wrong")
    if (record.get("version"), record.get("layer")) != (_VERSION, digest):
        raise MalformedInput(f"{what}: of another version or another layer")
    root_hash = text_member(record, "root_hash", what)
    if not _HEX.match(root_hash):
        raise MalformedInput(f"{what}: root hash {root_hash[:80]!r}")
    parents = as_list(member(record, "implicit_parents", what), what)
    files = TrackedFiles(
        *(_change_from_json(object_member(record, key, what)) for key in ("passwd", "group"))
    )
    result = LayerHash(
        root_hash=root_hash,
        image_size=as_int(member(record, "image_size", what), what),
        implicit_parents=tuple(as_text(parent, what) for parent in parents),
        implicit_count=as_int(member(record, "implicit_count", what), what),
        files=files,
    )
    return CachedLayer(text_member(record, "diff_id", what), result)


def _change_to_json(change: FileChange) -> JsonObject:
    content = None if change.content is None else base64.b64encode(change.content).decode()
    return {"hides": change.hides, "content": content}


def _change_from_json(entry: JsonObject) -> FileChange:
    what = "cache record: file"
    content = member(entry, "content", what)
    try:
        data = None if content is None else base64.b64decode(as_text(content, what), validate=True)
    except binascii.Error:
        raise MalformedInput(f"{what}: content is not base64") from None
    return FileChange(as_bool(member(entry, "hides", what), what), data)
