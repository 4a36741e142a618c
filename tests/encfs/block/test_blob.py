"""Blobs as block devices, over a real service: the contract, and what only a blob can do."""

from __future__ import annotations

import logging
import os

import pytest
import trio
from fakes.blobservice import BlobService
from fakes.device_contract import Factory, check_against_model, check_read_only, check_refusals

from encfs.block import bloblease
from encfs.block.blob import BlobDevice, open_blob
from encfs.block.device import BlockDevice, read
from encfs.block.retry import Retry
from encfs.errors import (
    AccessDenied,
    ImageBusy,
    ImageChanged,
    ImageMissing,
    LeaseLost,
    ReadOnlyDevice,
    TruncatedImage,
    UnsuitableBlob,
)

SIZE = 64 << 10


@pytest.fixture(params=[pytest.param("azurite", marks=pytest.mark.azurite), "local_blob_service"])
def service(request: pytest.FixtureRequest) -> BlobService:
    """Everything here holds for both: two implementations that have never seen each other."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, BlobService)
    return found


def noise(size: int = SIZE) -> bytes:
    return os.urandom(size)


def page_blob(service: BlobService, *, read_only: bool = False) -> Factory:
    async def make() -> BlockDevice:
        name = service.page_blob(noise())
        return Retry(await open_blob(service.url(name), read_only=read_only, tls=service.tls))

    return make


def block_blob(service: BlobService) -> Factory:
    async def make() -> BlockDevice:
        return await open_blob(service.url(service.block_blob(noise())), read_only=True, tls=service.tls)

    return make


# -- the contract ---------------------------------------------------------------------------------


def test_a_page_blob_agrees_with_a_model(service: BlobService) -> None:
    check_against_model(page_blob(service), examples=15)


async def test_page_blobs_refuse_bad_requests(service: BlobService) -> None:
    await check_refusals(page_blob(service))
    await check_refusals(page_blob(service, read_only=True))


async def test_read_only_blobs_refuse_writes(service: BlobService) -> None:
    for make in (page_blob(service, read_only=True), block_blob(service)):
        await check_read_only(make)


# -- opening --------------------------------------------------------------------------------------


async def test_what_is_no_volume_is_refused_at_open(service: BlobService) -> None:
    with pytest.raises(UnsuitableBlob, match="BlockBlob, wanted a PageBlob") as caught:
        await open_blob(service.url(service.block_blob(noise())), read_only=False, tls=service.tls)
    assert "upload" in caught.value.hint
    with pytest.raises(UnsuitableBlob, match="1000 bytes, wanted a multiple of 512"):
        await open_blob(service.url(service.block_blob(noise(1000))), read_only=True, tls=service.tls)
    with pytest.raises(ImageMissing, match="BlobNotFound"):
        await open_blob(service.url("nothing"), read_only=True, tls=service.tls)


async def test_a_stranger_is_refused_and_no_signature_is_shown(service: BlobService) -> None:
    name = service.page_blob(noise())
    with pytest.raises((AccessDenied, ImageMissing)) as stranger:
        await open_blob(service.url(name, ""), read_only=True, tls=service.tls)
    assert stranger.value.hint
    good = service.sas()
    forged = good.partition("sig=")[0] + "sig=" + "A" * 43 + "%3D"
    with pytest.raises(AccessDenied) as caught:
        await open_blob(service.url(name, forged), read_only=True, tls=service.tls)
    assert "AAAA" not in str(caught.value)
    assert "sig" not in repr(service.url(name, good))


async def test_a_signature_that_may_only_read_cannot_write(service: BlobService) -> None:
    url = service.url(service.page_blob(noise()), service.sas("r"))
    device = await open_blob(url, read_only=True, tls=service.tls)
    assert len(await read(device, 0, 512)) == 512
    await device.aclose()
    with pytest.raises(AccessDenied):
        await open_blob(url, read_only=False, tls=service.tls)


async def test_holes_are_not_fetched(service: BlobService) -> None:
    name = service.page_blob(size=8 << 20)
    service.put_page(name, 1 << 20, b"x" * 4096)
    device = await open_blob(service.url(name), read_only=True, tls=service.tls)
    asked: list[str] = []
    send = device.http.send

    async def counted(method: str, *rest: str, **options: object) -> object:
        asked.append(str(options["doing"]))
        return await send(method, *rest, **options)  # type: ignore[arg-type]

    device.http.send = counted  # type: ignore[method-assign,assignment]
    whole = await read(device, 0, 8 << 20)
    assert whole == bytes(1 << 20) + b"x" * 4096 + bytes((7 << 20) - 4096)
    assert await read(device, 4 << 20, 1 << 20) == bytes(1 << 20)
    assert asked == [f"reading 4096 bytes at {1 << 20}"]
    await device.aclose()


async def test_read_exactly_is_for_threads_and_takes_any_range(service: BlobService) -> None:
    content = noise()
    device = await open_blob(service.url(service.page_blob(content)), read_only=True, tls=service.tls)
    for offset, length in [(0, 1), (511, 2), (4095, 4098), (SIZE - 1, 1), (0, SIZE), (7, 0)]:
        got = await trio.to_thread.run_sync(device.read_exactly, offset, length)
        assert got == content[offset : offset + length]
    with pytest.raises(TruncatedImage):
        await trio.to_thread.run_sync(device.read_exactly, SIZE - 1, 2)
    await device.aclose()


# -- one writer -----------------------------------------------------------------------------------


async def test_a_second_writer_is_refused_until_the_first_is_gone(service: BlobService) -> None:
    url = service.url(service.page_blob(noise()))
    first = await open_blob(url, read_only=False, tls=service.tls)
    with pytest.raises(ImageBusy) as caught:
        await open_blob(url, read_only=False, tls=service.tls)
    assert "--take-over" in caught.value.hint
    reader = await open_blob(url, read_only=True, tls=service.tls)
    await reader.aclose()
    await first.aclose()
    second = await open_blob(url, read_only=False, tls=service.tls)
    await second.aclose()


async def test_a_supervisor_hands_its_lease_to_its_driver(service: BlobService) -> None:
    url = service.url(service.page_blob(noise()))
    supervisor = await open_blob(url, read_only=False, tls=service.tls)
    assert supervisor.lease is not None
    driver = await open_blob(url, read_only=False, tls=service.tls, lease_id=supervisor.lease.lease_id)
    await driver.write(0, b"d" * 512)
    await driver.aclose()
    await supervisor.http.aclose()


async def test_taking_over_makes_the_first_read_only_at_once_and_it_says_so(
    service: BlobService, caplog: pytest.LogCaptureFixture
) -> None:
    url = service.url(service.page_blob(noise()))
    first = await open_blob(url, read_only=False, tls=service.tls)
    second = await open_blob(url, read_only=False, tls=service.tls, take_over=True)
    await second.write(0, b"2" * 512)
    with caplog.at_level(logging.ERROR), pytest.raises(LeaseLost):
        await first.write(0, b"1" * 512)
    assert first.read_only
    assert [r.message for r in caplog.records if "read-only from here on" in r.message]
    caplog.clear()
    with pytest.raises(ReadOnlyDevice):  # without asking the store
        await first.write(512, b"1" * 512)
    with pytest.raises(ImageChanged):  # never mixed data
        await read(first, 0, 512)
    assert await read(second, 0, 512) == b"2" * 512
    await second.aclose()
    await first.aclose()
    assert service.content(url.path.rpartition("/")[2])[:512] == b"2" * 512


async def test_the_lease_is_kept_and_its_loss_is_noticed_without_a_write(
    service: BlobService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bloblease, "_RENEW_SHARE", 0.001)
    url = service.url(service.page_blob(noise()))
    first = await open_blob(url, read_only=False, tls=service.tls)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.keep_lease)
            second = await open_blob(url, read_only=False, tls=service.tls, take_over=True)
    assert first.read_only
    assert "read-only from here on" in caplog.text
    caplog.clear()
    for device in (second, first):
        await device.aclose()


async def test_a_replaced_blob_is_an_error_for_a_reader(service: BlobService) -> None:
    name = service.page_blob(noise())
    device = await open_blob(service.url(name), read_only=True, tls=service.tls)
    await read(device, 0, 512)
    service.page_blob(noise(), name=name)
    with pytest.raises(ImageChanged, match="ConditionNotMet"):
        await read(device, 0, 512)
    await device.aclose()


async def test_somebody_who_writes_in_spite_of_the_lease_is_noticed(
    service: BlobService, caplog: pytest.LogCaptureFixture
) -> None:
    """A stolen lease identifier: the ETag gives it away, and nothing is written on top."""
    name = service.page_blob(noise())
    device = await open_blob(service.url(name), read_only=False, tls=service.tls)
    assert device.lease is not None
    service.put_page(name, 0, b"t" * 512, x_ms_lease_id=device.lease.lease_id)
    with pytest.raises(LeaseLost, match="ConditionNotMet"):
        await device.write(0, b"1" * 512)
    assert service.content(name)[:512] == b"t" * 512
    assert "read-only from here on" in caplog.text
    caplog.clear()
    await device.aclose()


async def test_writes_at_once_all_arrive(service: BlobService) -> None:
    name = service.page_blob(size=1 << 20)
    device = await open_blob(service.url(name), read_only=False, tls=service.tls)
    assert isinstance(device, BlobDevice)
    async with trio.open_nursery() as nursery:
        for index in range(32):
            nursery.start_soon(device.write, index << 15, bytes([index + 1]) * (1 << 15))
    assert service.content(name) == b"".join(bytes([i + 1]) * (1 << 15) for i in range(32))
    await device.aclose()
