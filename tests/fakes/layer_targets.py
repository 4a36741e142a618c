"""Fuzz targets: everything of an image that comes from outside, from its name to the last byte of a layer."""

from __future__ import annotations

import io
import json

from fakes.fuzz import Target
from fakes.layer_tars import attribute_block, duplicates, every_type, global_header, gnu_times, plain
from fakes.oci_images import Blobs, compress, docker_files, layout_files
from sidecar.errors import LayerRejected, SidecarError, UsageError
from sidecar.policy.images_names import parse_name
from sidecar.policy.layers import hash_layer
from sidecar.policy.layers_streams import decompressed
from sidecar.policy.oci import Platform, choose, parse_config, parse_manifest
from sidecar.policy.oci_archive import open_docker_archive, open_layout
from sidecar.policy.registry_challenge import parse_challenge
from sidecar.policy.tar_header import parse_records

MAX_UNPACKED = 8 << 20


def fix_checksums(data: bytes) -> bytes:
    """Make the checksums of all headers right, so that what is behind them gets tested."""
    fixed = bytearray(data)
    for start in range(0, len(fixed) - 511, 512):
        block = fixed[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b"        "
            fixed[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(fixed)


def layer(data: bytes) -> None:
    """An uncompressed layer with good checksums."""
    hash_layer(io.BytesIO(fix_checksums(data)))


def packed(data: bytes) -> None:
    """A compressed layer, read up to a bound."""
    stream = decompressed(io.BytesIO(data), "layer")
    buffer = memoryview(bytearray(1 << 16))
    done = 0
    while done < MAX_UNPACKED and (count := stream.readinto(buffer)):
        done += count


def manifest(data: bytes) -> None:
    """A manifest or an index, from which a platform is chosen."""
    parsed = parse_manifest(data, "manifest")
    if isinstance(parsed, tuple):
        choose(parsed, Platform(), "index")


class Memory:
    """An archive's files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def has(self, name: str) -> bool:
        return name in self.files

    def open(self, name: str) -> io.RawIOBase:
        if name not in self.files:
            raise UsageError(f"holds no {name}")
        return _Bytes(self.files[name])


class _Bytes(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        return self._data.readinto(buffer)  # type: ignore[arg-type]


def layout_of_two() -> dict[str, bytes]:
    blobs = Blobs()
    images = {"v1": blobs.image([(plain(), "gzip")]), "v2": blobs.image([(every_type(), "")])}
    return layout_files(blobs, images)


LAYOUT = layout_of_two()
DOCKER = docker_files([plain()], {"Env": ["A=b"]}, ["demo:1"])


def docker_archive(data: bytes) -> None:
    open_docker_archive(Memory(DOCKER | {"manifest.json": data}), "", Platform(), "archive")


def layout(data: bytes) -> None:
    open_layout(Memory(LAYOUT | {"index.json": data}), "", Platform(), "layout")


def name(data: bytes) -> None:
    parse_name(data.decode("latin-1"))


def challenge(data: bytes) -> None:
    parse_challenge(data.decode("latin-1"))


def targets() -> list[Target]:
    blobs = Blobs()
    image = blobs.image([(plain(), "gzip"), (every_type(), "")], config={"Env": ["A=b"], "Cmd": ["x"]})
    config = blobs.data[json.loads(image)["config"]["digest"]]
    index = blobs.index({"amd64": image, "arm64": image})
    one = json.loads(LAYOUT["index.json"])
    one["manifests"].pop()
    tars = [plain(), every_type(), duplicates(), global_header(), gnu_times(), attribute_block(9)]
    packs = [compress(every_type(), kind) for kind in ("gzip", "zstd")]
    records = b"30 mtime=1600000005.123456789\n28 SCHILY.xattr.user.note=a\n19 path=some/where\n"
    names = [
        b"reg.example:5000/team/app:v1@sha256:" + b"0" * 64,
        b"containers-storage:[vfs@/x]a",
        b"oci:/a:b",
    ]
    headers = [b'Bearer realm="https://a/t",service="s",scope="r:y:pull"', b"Basic realm=x"]
    return [
        Target("layer", tars, layer, LayerRejected),
        Target("compressed layer", packs, packed, LayerRejected),
        Target("PAX records", [records], lambda data: parse_records(data), LayerRejected),
        Target("manifest", [image, index], manifest, SidecarError),
        Target("config", [config], lambda data: parse_config(data, "config"), SidecarError),
        Target("docker archive", [DOCKER["manifest.json"]], docker_archive, SidecarError),
        Target("layout", [json.dumps(one).encode(), LAYOUT["index.json"]], layout, SidecarError),
        Target("image name", names, name, SidecarError),
        Target("challenge", headers, challenge, SidecarError),
    ]
