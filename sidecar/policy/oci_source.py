"""What every place that images come from looks like to the code that hashes them.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from sidecar.errors import MalformedInput
from sidecar.policy.oci import (
    ConfigFile,
    Descriptor,
    Manifest,
    Platform,
    check_bytes,
    check_platform,
    choose,
    parse_config,
    parse_manifest,
)
from sidecar.policy.tar_input import ByteStream

_MAX_NESTING = 3


@dataclass(frozen=True, slots=True)
class LayerSource:
    """One layer that can be read.

    Args:
        digest: of the bytes that `open` yields, compressed or not; None where only `diff_id` is known.
        size: of them in bytes, None when unknown.
        diff_id: digest of the uncompressed layer, from the image's configuration.
        open: starts reading; blocks, so it belongs into a thread.
    """

    digest: str | None
    size: int | None
    diff_id: str
    open: Callable[[], AbstractContextManager[ByteStream]]


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """One image for one platform, its documents checked, its layers not read yet."""

    name: str
    digest: str
    config: ConfigFile
    layers: tuple[LayerSource, ...]


class BlobStore(Protocol):
    """A place that holds blobs by digest; blocking."""

    def document(self, descriptor: Descriptor) -> bytes:
        """A small blob, not checked yet."""
        ...

    def blob(self, descriptor: Descriptor) -> AbstractContextManager[ByteStream]:
        """A layer's bytes, not checked yet."""
        ...


def open_image(store: BlobStore, top: Descriptor, platform: Platform, name: str) -> OpenedImage:
    """Follow an index or manifest to one image; every document is checked against its digest.

    Raises:
        DigestMismatch, MalformedInput, UsageError: see sidecar.policy.oci.
    """
    for _ in range(_MAX_NESTING):
        data = store.document(top)
        check_bytes(data, top.digest, f"{name}: manifest")
        parsed = parse_manifest(data, f"{name}: manifest")
        if isinstance(parsed, Manifest):
            return _opened(store, parsed, top.digest, platform, name)
        top = choose(parsed, platform, name)
    raise MalformedInput(f"{name}: indexes nested more than {_MAX_NESTING} levels deep")


def _opened(store: BlobStore, manifest: Manifest, digest: str, platform: Platform, name: str) -> OpenedImage:
    data = store.document(manifest.config)
    check_bytes(data, manifest.config.digest, f"{name}: config")
    config = parse_config(data, f"{name}: config")
    check_platform(config, platform, name)
    if len(config.diff_ids) != len(manifest.layers):
        raise MalformedInput(
            f"{name}: {len(manifest.layers)} layers, but {len(config.diff_ids)} diff_ids in its config"
        )
    layers = tuple(
        LayerSource(layer.digest, layer.size, diff_id, _opener(store, layer))
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    )
    return OpenedImage(name, digest, config, layers)


def _opener(store: BlobStore, layer: Descriptor) -> Callable[[], AbstractContextManager[ByteStream]]:
    return lambda: store.blob(layer)
