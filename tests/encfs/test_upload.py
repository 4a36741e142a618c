"""Uploads: what is sent, what is not, what a second try does, and what is refused. Over both services."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.blobservice import BlobService

from encfs import upload as uploading
from encfs.blobs import BlobAccess
from encfs.block.blob import open_blob
from encfs.block.blobcodec import BlobKind
from encfs.block.blobput import BlobPut
from encfs.block.bloburl import parse_blob_url
from encfs.errors import (
    ImageBusy,
    ImageError,
    ImageMissing,
    NotLuks2,
    StoreError,
    StoreUnavailable,
    UnsuitableBlob,
)
from encfs.upload import Uploaded, UploadOptions, upload

MIB = 1 << 20
Send = Callable[..., "object"]


@pytest.fixture(params=[pytest.param("azurite", marks=pytest.mark.azurite), "local_blob_service"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BlobService:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, BlobService)
    if found.ca_file:
        monkeypatch.setenv("SIDECAR_CA_FILE", found.ca_file)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """12 MiB: data, zeros that are written, a hole, data that is not aligned to anything, a hole."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(os.urandom(MIB) + bytes(3 * MIB))
        file.seek(9 * MIB + 512)
        file.write(os.urandom(2048))
        file.truncate(12 * MIB)
    return path


def options(kind: BlobKind = BlobKind.PAGE, **more: bool) -> UploadOptions:
    return UploadOptions(**({"kind": kind, "raw": True} | more))  # type: ignore[arg-type]


def access(service: BlobService, name: str) -> BlobAccess:
    return BlobAccess(service.url(name))


@pytest.mark.parametrize("kind", BlobKind)
async def test_what_is_not_zero_is_sent_and_everything_is_there(
    service: BlobService, image: Path, kind: BlobKind, request: pytest.FixtureRequest
) -> None:
    name = f"{kind}-{request.node.name[-10:].strip('[]-')}"
    done = await upload(image, access(service, name), options(kind))
    assert service.content(name) == image.read_bytes()
    assert service.properties(name)["x-ms-blob-type"] == kind
    assert (done.size, done.verified, done.sent + done.zero) == (12 * MIB, 12 * MIB, 12 * MIB)
    if kind is BlobKind.PAGE:
        assert done.sent <= MIB + 2 * (64 << 10)
        assert service.properties(name).get("x-ms-meta-encfsupload") is None
    before = service.content(name)
    with pytest.raises(ImageError, match="is there already") as caught:
        await upload(image, access(service, name), options(kind))
    assert "--force" in caught.value.hint
    image.write_bytes(os.urandom(8 * MIB))
    await upload(image, access(service, name), options(kind, force=True))
    assert service.content(name) == image.read_bytes() != before


async def interrupted(
    service: BlobService, image: Path, kind: BlobKind, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An upload that ends in the middle."""
    sent = 0
    method = "put_pages" if kind is BlobKind.PAGE else "put_block"
    send = getattr(BlobPut, method)

    async def fails_later(self: BlobPut, *words: object) -> None:
        nonlocal sent
        if sent == 1:
            raise StoreUnavailable("gone")
        sent += 1
        await send(self, *words)

    with monkeypatch.context() as patch:
        patch.setattr(BlobPut, method, fails_later)
        with pytest.raises((StoreUnavailable, BaseExceptionGroup)):
            await upload(image, access(service, name), replace(options(kind), parallel=1))


@pytest.mark.parametrize("kind", BlobKind)
async def test_a_second_try_goes_on_where_the_first_ended(
    service: BlobService, tmp_path: Path, kind: BlobKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(12 * MIB))
    name = f"resumed-{kind}-{service.account}"
    await interrupted(service, image, kind, monkeypatch, name)
    if kind is BlobKind.PAGE:
        for read_only in (True, False):  # half an image is no image
            with pytest.raises(UnsuitableBlob, match="not complete"):
                await open_blob(service.url(name), read_only=read_only, tls=service.tls)
        other = tmp_path / "other"
        other.write_bytes(os.urandom(12 * MIB))
        with pytest.raises(ImageError, match="of another image is under way"):
            await upload(other, access(service, name), options(kind))
    done = await upload(image, access(service, name), options(kind))
    assert (done.resumed, done.sent, done.verified) == (4 * MIB, 8 * MIB, 12 * MIB)
    assert service.content(name) == image.read_bytes()
    device = await open_blob(service.url(name), read_only=True, tls=service.tls)
    await device.aclose()


async def test_a_store_that_holds_something_else_is_found_out(
    service: BlobService, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"damaged-{service.account}"
    verify = uploading._verify

    async def damage_and_verify(place: BlobAccess, work: uploading._Work) -> None:
        # Under the upload's own lease nobody else can write: the service itself changes a page.
        lease = service.properties(name)
        assert lease["x-ms-lease-state"] == "leased"
        service.lease(name, "break", x_ms_lease_break_period="0")
        service.put_page(name, 8 * MIB, b"!" * 512)
        await verify(place, work)

    monkeypatch.setattr(uploading, "_verify", damage_and_verify)
    with pytest.raises(StoreError, match=f"something else at {8 * MIB}"):
        await upload(image, access(service, name), options())


async def test_a_blob_that_is_mounted_is_not_replaced(service: BlobService, image: Path) -> None:
    name = service.page_blob(os.urandom(MIB))
    device = await open_blob(service.url(name), read_only=False, tls=service.tls)
    with pytest.raises(ImageBusy):
        await upload(image, access(service, name), options(force=True))
    await device.aclose()


async def test_what_cannot_be_uploaded(service: BlobService, tmp_path: Path, image: Path) -> None:
    with pytest.raises(NotLuks2):  # plaintext does not leave by accident
        await upload(image, access(service, "plain"), UploadOptions())
    odd = tmp_path / "odd"
    odd.write_bytes(b"x" * 1000)
    with pytest.raises(UnsuitableBlob, match="1000 bytes"):
        await upload(odd, access(service, "odd"), options())
    with pytest.raises(ImageMissing):
        await upload(tmp_path / "none", access(service, "none"), options())
    elsewhere = parse_blob_url(str(service.url("x", "")).replace("/images/", "/nowhere/"))
    with pytest.raises(ImageMissing, match="ContainerNotFound"):
        await upload(image, BlobAccess(elsewhere.with_sas(service.sas())), options())
    with pytest.raises(NotLuks2):
        await upload(image, access(service, "plain"), UploadOptions())
    with pytest.raises(ImageMissing):
        await open_blob(service.url("plain"), read_only=True, tls=service.tls)


def test_pieces_and_zeros(image: Path) -> None:
    done = Uploaded("", "", 12 * MIB)
    fd = os.open(image, os.O_RDONLY)
    try:
        pieces = list(uploading._pieces(fd, 12 * MIB, done))
    finally:
        os.close(fd)
    assert all(offset % (4 * MIB) == 0 for offset, _ in pieces)
    assert done.zero + sum(length for _, length in pieces) == 12 * MIB
    data = memoryview(bytes(64 << 10) + b"x" + bytes((64 << 10) - 1) + bytes(64 << 10) + b"y" * 512)
    assert list(uploading._not_zero(data)) == [(64 << 10, 128 << 10), (192 << 10, (192 << 10) + 512)]
    assert list(uploading._not_zero(memoryview(bytes(1000)))) == []
