"""Images as other tools write them: OCI layouts and archives, docker archives, with layers we choose."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def compress(data: bytes, kind: str) -> bytes:
    """`gzip`, `zstd`, or anything else for as it is."""
    if kind == "gzip":
        return gzip.compress(data, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if kind == "zstd" else data


@dataclass
class Blobs:
    """Blobs by digest, and the documents that name them."""

    data: dict[str, bytes] = field(default_factory=dict)

    def put(self, data: bytes) -> str:
        self.data[digest(data)] = data
        return digest(data)

    def describe(self, media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.put(data), "size": len(data), **more}

    def image(
        self,
        layers: Sequence[tuple[bytes, str]],
        *,
        architecture: str = "amd64",
        config: Mapping[str, Any] | None = None,
    ) -> bytes:
        """A manifest of layers, each a tar archive and how it is compressed."""
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar, _ in layers]},
        }
        entries = [
            self.describe(f"{LAYER}+{kind}" if kind else LAYER, compress(tar, kind)) for tar, kind in layers
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.describe(CONFIG, json.dumps(document).encode()),
            "layers": entries,
        }
        return json.dumps(manifest).encode()

    def index(self, manifests: Mapping[str, bytes]) -> bytes:
        """An index of manifests by architecture."""
        entries = [
            self.describe(MANIFEST, data, platform={"os": "linux", "architecture": architecture})
            for architecture, data in manifests.items()
        ]
        return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


def layout_files(blobs: Blobs, manifests: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of an OCI layout; manifests by the tag they are to have."""
    entries = []
    for tag, data in manifests.items():
        media_type = json.loads(data)["mediaType"]
        notes = {"org.opencontainers.image.ref.name": tag} if tag else {}
        entries.append(blobs.describe(media_type, data, annotations=notes))
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode(),
    }
    return files | {f"blobs/{name.replace(':', '/')}": data for name, data in blobs.data.items()}


def docker_files(layers: Sequence[bytes], config: Mapping[str, Any], tags: Sequence[str]) -> dict[str, bytes]:
    """The files of `docker save`, for one image of plain layers."""
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in layers]},
    }
    paths = [f"{digest(tar)[7:]}/layer.tar" for tar in layers]
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": paths}]
    files = {"config.json": json.dumps(document).encode(), "manifest.json": json.dumps(manifest).encode()}
    return files | dict(zip(paths, layers, strict=True))


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_archive(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path
