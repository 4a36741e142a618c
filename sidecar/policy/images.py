"""Images by name, from wherever they are: their configuration and the root hashes of their layers.

Kind: composition
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import trio

from sidecar.errors import LayerRejected, MalformedInput
from sidecar.policy.image import ResolvedImage
from sidecar.policy.images_names import ImageName, PathName, RegistryName, StorageName, parse_name
from sidecar.policy.layers import LayerHash, hash_layer
from sidecar.policy.layers_cache import CachedLayer, LayerCache, cache_directory
from sidecar.policy.layers_streams import CheckedStream, decompressed
from sidecar.policy.oci import Platform
from sidecar.policy.oci_archive import open_path
from sidecar.policy.oci_source import LayerSource, OpenedImage
from sidecar.policy.oci_storage import open_stored
from sidecar.policy.registry import open_registry, open_remote

DEFAULT_PLATFORM = Platform()

# Layer's number, layers in all, its size in bytes or None, bytes read now.
Progress = Callable[[int, int, int | None, int], None]


@dataclass(frozen=True, slots=True)
class HashedLayer:
    """One layer's digests and what it amounts to; `cached` when it was not read again."""

    digest: str
    diff_id: str
    result: LayerHash
    cached: bool


@dataclass(frozen=True, slots=True)
class HashedImage:
    """An image with all its layers hashed, base first."""

    image: OpenedImage
    layers: tuple[HashedLayer, ...]

    def resolved(self) -> ResolvedImage:
        """The image as policies are made from it."""
        passwd: bytes | None = None
        group: bytes | None = None
        for layer in self.layers:
            passwd = layer.result.files.passwd.over(passwd)
            group = layer.result.files.group.over(group)
        return ResolvedImage(
            config=self.image.config.config,
            layers=tuple(layer.result.root_hash for layer in self.layers),
            passwd=passwd,
            group=group,
            digest=self.image.digest,
        )


async def resolve_image(
    reference: str,
    *,
    environ: Mapping[str, str],
    platform: Platform = DEFAULT_PLATFORM,
    cache: LayerCache | None = None,
    progress: Progress | None = None,
) -> ResolvedImage:
    """The image as policies are made from it; see `hash_image` for arguments and errors."""
    hashed = await hash_image(reference, environ=environ, platform=platform, cache=cache, progress=progress)
    return hashed.resolved()


async def hash_image(
    reference: str | ImageName,
    *,
    environ: Mapping[str, str],
    platform: Platform = DEFAULT_PLATFORM,
    cache: LayerCache | None = None,
    progress: Progress | None = None,
) -> HashedImage:
    """Find an image, check every byte of it against its digest, and hash its layers.

    Args:
        reference: a file or folder, with one of the prefixes of `sidecar.policy.images_names` or without, or
            a name in a registry.
        environ: where credentials, CA file and cache are looked for.
        platform: which image of an index.
        cache: results kept, None for the user's own.
        progress: told of the bytes read, from a thread.

    Raises:
        UsageError: there is no such image, or not for the platform.
        MalformedInput: a document or a layer is malformed (LayerRejected, LayerUnpredictable).
        DigestMismatch: bytes are not what their digest says.
        ServiceError: a registry could not be reached, or refused.
        IdentityError: no token for a registry could be had.
    """
    where = parse_name(reference) if isinstance(reference, str) else reference
    kept = cache if cache is not None else LayerCache(cache_directory(environ))
    work = partial(hash_opened, cache=kept, progress=progress)
    match where:
        case PathName():
            image = await trio.to_thread.run_sync(open_path, where.path, where.reference, platform)
            return await trio.to_thread.run_sync(work, image)
        case StorageName():
            image = await trio.to_thread.run_sync(open_stored, where, platform, environ)
            return await trio.to_thread.run_sync(work, image)
        case RegistryName():
            async with open_registry(where, environ) as registry:
                image = await trio.to_thread.run_sync(open_remote, registry, where, platform)
                return await trio.to_thread.run_sync(work, image)


def hash_opened(
    image: OpenedImage, *, cache: LayerCache | None = None, progress: Progress | None = None
) -> HashedImage:
    """Hash the layers of an image that was opened; for a thread of trio's. Errors as `hash_image`."""
    cache = cache if cache is not None else LayerCache(None)
    if not image.layers:
        raise MalformedInput(f"{image.name}: has no layers", hint="a policy without layers admits nothing")
    total = len(image.layers)
    layers: list[HashedLayer] = []
    for number, layer in enumerate(image.layers):
        tell = None if progress is None else partial(progress, number, total, layer.size)
        layers.append(_hash_one(layer, f"{image.name}: layer {number}", cache, tell))
    return HashedImage(image, tuple(layers))


def _hash_one(
    layer: LayerSource, what: str, cache: LayerCache, progress: Callable[[int], None] | None
) -> HashedLayer:
    digest = layer.digest or layer.diff_id
    found = cache.get(digest)
    if found is not None and found.diff_id == layer.diff_id:
        return HashedLayer(digest, layer.diff_id, found.result, cached=True)

    def tell(count: int) -> None:
        trio.from_thread.check_cancelled()
        if progress is not None:
            progress(count)

    with layer.open() as source:
        packed = CheckedStream(source, layer.digest, what, size=layer.size, progress=tell)
        unpacked = CheckedStream(decompressed(packed, what), layer.diff_id, f"{what}, uncompressed")
        try:
            result = hash_layer(unpacked)
        except LayerRejected as exc:
            # Damage in transit shows as a malformed archive first; the digest tells whose fault it is.
            packed.verify()
            text = str(exc) if str(exc).startswith(what) else f"{what}: {exc}"
            raise type(exc)(text, hint=exc.hint) from exc
        packed.verify()
        unpacked.verify()
    cache.put(digest, CachedLayer(layer.diff_id, result))
    return HashedLayer(digest, layer.diff_id, result, cached=False)
