"""Blobs for the rest of the package: which one and how to reach it, opened with identity and trust.

What reaches a store is imported when one is reached: it costs more than all the rest of a local mount.

Kind: composition
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from encfs.block.bloburl import MAX_URL, BlobUrl, parse_blob_url
from encfs.block.cachesettings import CacheSettings, sized
from encfs.errors import UsageError
from encfs.volume import BlobOrder

if TYPE_CHECKING:
    from encfs.azure import BlobIdentity
    from encfs.block.blob import BlobDevice
    from encfs.block.blobhttp import BlobHttp

# Less than what a supervisor gives its driver to start.
OPEN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class BlobAccess:
    """A blob and how to reach it.

    Attributes:
        url: with its signature, if any.
        bearer: send tokens of this machine's identity; else the signature, or nothing.
        client_id: of the managed identity, where there are several.
        take_over: end another's lease.
        cache: of a volume served from it.
    """

    url: BlobUrl
    bearer: bool = False
    client_id: str = ""
    take_over: bool = False
    cache: CacheSettings = field(default_factory=sized)

    def __str__(self) -> str:
        return str(self.url)


def read_signature(path: Path) -> str:
    """A shared access signature from a file, secret.

    Raises:
        UsageError: it cannot be read, or is too long.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_URL + 1)
    except OSError as exc:
        raise UsageError(f"signature file {path}: {exc.strerror}") from exc
    if len(data) > MAX_URL or not data.isascii():
        raise UsageError(f"signature file {path}: not one line of ASCII of at most {MAX_URL} bytes")
    return data.decode()


async def open_access(
    access: BlobAccess,
    *,
    read_only: bool,
    environ: Mapping[str, str] = os.environ,
    lease_id: str = "",
    etag: str = "",
    unfinished: bool = False,
    deadline: float = OPEN_SECONDS,
) -> BlobDevice:
    """Open a blob; see `encfs.block.blob.open_blob`.

    Raises:
        HostNotAllowed: a token would go to a host that is not on the list.
        ImageError, StoreError: what is wrong with the blob, or with the way to it.
    """
    from encfs.azure import blob_tls
    from encfs.block.blob import open_blob

    return await open_blob(
        access.url,
        read_only=read_only,
        tokens=_tokens(access, environ),
        tls=blob_tls(environ),
        lease_id=lease_id,
        etag=etag,
        take_over=access.take_over,
        unfinished=unfinished,
        deadline=deadline,
    )


def open_http(access: BlobAccess, *, environ: Mapping[str, str] = os.environ) -> BlobHttp:
    """Requests to a blob that may not exist yet; see `open_access`."""
    from encfs.azure import blob_tls
    from encfs.block.blobhttp import BlobHttp

    return BlobHttp(access.url, tokens=_tokens(access, environ), tls=blob_tls(environ))


def _tokens(access: BlobAccess, environ: Mapping[str, str]) -> BlobIdentity | None:
    if not access.bearer:
        return None
    from encfs.azure import blob_identity

    return blob_identity(access.url.host, environ, client_id=access.client_id)


def blob_order(access: BlobAccess, device: BlobDevice, *, deadline: float) -> BlobOrder:
    """What a driver needs to open the same blob, under the lease that `device` has."""
    from encfs.azure import store_environment

    return BlobOrder(
        url=str(access.url),
        bearer=access.bearer,
        client_id=access.client_id,
        lease_id="" if device.lease is None else device.lease.lease_id,
        etag=device.etag,
        deadline=deadline,
        cache=access.cache,
        sas=access.url.sas,
        environment=store_environment(os.environ),
    )


async def open_ordered(order: BlobOrder) -> BlobDevice:
    """Open the blob of an order, in the driver."""
    access = BlobAccess(
        replace(parse_blob_url(order.url), sas=order.sas), bearer=order.bearer, client_id=order.client_id
    )
    # azure-identity reads settings from the process's environment and nowhere else.
    os.environ.update(order.environment)
    return await open_access(
        access,
        read_only=not order.lease_id,
        lease_id=order.lease_id,
        etag=order.etag,
        environ=order.environment,
    )
