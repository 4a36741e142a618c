"""Image indexes, manifests and configurations: JSON from a registry or an archive, read strictly.

Both families of media types are taken, OCI's and Docker's schema 2. Docker's schema 1 is refused, as are
encrypted layers: nothing that can be hashed is in them.

Spec: OCI image specification 1.1 (descriptor.md, manifest.md, image-index.md, config.md).

Kind: pure
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.errors import DigestMismatch, MalformedInput, UsageError
from sidecar.policy.image import ImageConfig
from sidecar.strictjson import JsonObject, as_int, as_list, as_object, load_json, optional_text, text_member

MAX_DOCUMENT = 4 << 20  # bytes; registries refuse larger manifests
LYING_HINT = "the source serves other bytes than it names; get the image again, from a source you trust"
MAX_LAYERS = 512
MAX_MANIFESTS = 1024
MAX_BLOB = 64 << 30
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z|sha512:[0-9a-f]{128}\Z")

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LAYER_TYPE = re.compile(
    r"application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+(gzip|zstd))?"
    r"|docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?)\Z"
)


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system and processor, as images are named by; an empty variant fits all."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Names a blob by digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration and its layers, base first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """An image's configuration: what it runs, for which platform, and its layers' digests uncompressed."""

    config: ImageConfig
    platform: Platform
    diff_ids: tuple[str, ...]


def parse_platform(text: str) -> Platform:
    """`os/architecture` with an optional `/variant`; UsageError otherwise."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"[a-z0-9_.-]{1,32}", part) for part in parts):
        raise UsageError(f"platform {text!r}, wanted os/architecture like linux/amd64")
    return Platform(*parts)


def check_digest(text: str, what: str) -> str:
    """The text if it is a digest of a known kind in its one written form; MalformedInput otherwise."""
    if not _DIGEST.match(text):
        raise MalformedInput(f"{what}: digest {text[:160]!r}, wanted sha256: or sha512: and hex digits")
    return text


def digest_of(data: bytes, like: str = "sha256:") -> str:
    """The digest of some bytes, of the kind that `like` has."""
    kind = like.partition(":")[0]
    return f"{kind}:{hashlib.new(kind, data).hexdigest()}"


def check_bytes(data: bytes, digest: str, what: str) -> None:
    """DigestMismatch when the bytes are not those that the digest names."""
    found = digest_of(data, digest)
    if found != digest:
        raise DigestMismatch(
            f"{what}: digest {found}, wanted {digest}",
            hint=LYING_HINT,
        )


def parse_manifest(data: bytes, what: str) -> Manifest | tuple[Descriptor, ...]:
    """Read an image manifest, or an index as its descriptors.

    Raises:
        MalformedInput: neither, or malformed.
    """
    document = as_object(load_json(data, what=what, max_bytes=MAX_DOCUMENT), what)
    if document.get("schemaVersion") != 2:
        raise MalformedInput(
            f"{what}: schemaVersion {document.get('schemaVersion')!r}, wanted 2",
            hint="push the image again with a current tool",
        )
    media_type = optional_text(document, "mediaType", what)
    if media_type is not None and media_type not in (*MANIFEST_TYPES, *INDEX_TYPES):
        raise MalformedInput(f"{what}: media type {media_type[:100]!r} is no image")
    # A document that is both could be read as one thing here and as another elsewhere.
    if "manifests" in document and ("layers" in document or "config" in document):
        raise MalformedInput(f"{what}: an index and a manifest in one")
    if media_type in INDEX_TYPES or (media_type is None and "manifests" in document):
        entries = as_list(document.get("manifests"), f"{what}: manifests", max_items=MAX_MANIFESTS)
        return tuple(_descriptor(entry, f"{what}: manifest {i}") for i, entry in enumerate(entries))
    layers = as_list(document.get("layers"), f"{what}: layers", max_items=MAX_LAYERS)
    config = _descriptor(document.get("config"), f"{what}: config")
    return Manifest(config, tuple(_layer(entry, f"{what}: layer {i}") for i, entry in enumerate(layers)))


def choose(entries: Sequence[Descriptor], platform: Platform, what: str) -> Descriptor:
    """The one entry of an index for a platform; a single entry without platform fits as well.

    Raises:
        UsageError: none fits.
    """
    images = [entry for entry in entries if entry.media_type in (*MANIFEST_TYPES, *INDEX_TYPES)]
    fitting = [entry for entry in images if entry.platform is not None and _fits(entry.platform, platform)]
    if fitting:
        return fitting[0]
    unnamed = [entry for entry in images if entry.platform is None]
    if len(images) == 1 and unnamed:
        return unnamed[0]
    offered = ", ".join(sorted({str(entry.platform or "unnamed") for entry in images})[:16]) or "nothing"
    raise UsageError(f"{what}: no image for {platform}; it offers {offered}")


def parse_config(data: bytes, what: str) -> ConfigFile:
    """Read an image configuration.

    Raises:
        MalformedInput: malformed.
    """
    document = as_object(load_json(data, what=what, max_bytes=MAX_DOCUMENT), what)
    rootfs = as_object(document.get("rootfs"), f"{what}: rootfs")
    diff_ids = _texts(rootfs, "diff_ids", what)
    if rootfs.get("type", "layers") != "layers":
        raise MalformedInput(f"{what}: rootfs is not made of layers")
    section: JsonObject = {}
    if document.get("config") is not None:
        section = as_object(document["config"], f"{what}: config")
    return ConfigFile(
        config=ImageConfig(
            env=_texts(section, "Env", what),
            entrypoint=_texts(section, "Entrypoint", what),
            cmd=_texts(section, "Cmd", what),
            user=optional_text(section, "User", what) or "",
            working_dir=optional_text(section, "WorkingDir", what) or "",
            stop_signal=optional_text(section, "StopSignal", what) or "",
        ),
        platform=_platform(document, what),
        diff_ids=tuple(check_digest(text, f"{what}: diff_ids") for text in diff_ids),
    )


def check_platform(config: ConfigFile, platform: Platform, what: str) -> None:
    """UsageError when the image is for another platform than the one asked for."""
    if not _fits(config.platform, platform):
        raise UsageError(
            f"{what}: made for {config.platform}, wanted {platform}", hint="choose with --platform"
        )


def _fits(has: Platform, wanted: Platform) -> bool:
    same = (has.os, has.architecture) == (wanted.os, wanted.architecture)
    return same and (not wanted.variant or has.variant == wanted.variant)


def _descriptor(value: object, what: str) -> Descriptor:
    entry = as_object(value, what)
    size = as_int(entry.get("size"), f"{what}: size")
    if not 0 <= size <= MAX_BLOB:
        raise MalformedInput(f"{what}: size {size}, at most {MAX_BLOB} bytes are accepted")
    platform = entry.get("platform")
    return Descriptor(
        media_type=text_member(entry, "mediaType", what, max_length=256),
        digest=check_digest(text_member(entry, "digest", what), what),
        size=size,
        platform=None if platform is None else _platform(as_object(platform, what), what),
        names=_names(entry, what),
    )


def _layer(value: object, what: str) -> Descriptor:
    layer = _descriptor(value, what)
    if not _LAYER_TYPE.match(layer.media_type):
        hint = "decrypt the image first" if layer.media_type.endswith("+encrypted") else ""
        raise MalformedInput(
            f"{what}: media type {layer.media_type[:100]!r} is no file system layer", hint=hint
        )
    return layer


def _platform(entry: JsonObject, what: str) -> Platform:
    return Platform(
        optional_text(entry, "os", what) or "",
        optional_text(entry, "architecture", what) or "",
        optional_text(entry, "variant", what) or "",
    )


def _names(entry: JsonObject, what: str) -> tuple[str, ...]:
    """What annotations call a manifest in a layout: a tag, or a whole reference."""
    if entry.get("annotations") is None:
        return ()
    notes = as_object(entry["annotations"], f"{what}: annotations")
    keys = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
    return tuple(value for key in keys if (value := optional_text(notes, key, what)))


def _texts(section: JsonObject, name: str, what: str) -> tuple[str, ...]:
    value = section.get(name)
    if value is None:
        return ()
    found = []
    for item in as_list(value, f"{what}: {name}", max_items=65536):
        if not isinstance(item, str):
            raise MalformedInput(f"{what}: {name} holds something that is no text")
        found.append(item)
    return tuple(found)
