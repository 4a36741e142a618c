"""Blobs over a bad network: nothing that was accepted is lost, nothing old lands on something new."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from fakes.blobtransport import ACCOUNT, BadNetwork
from hypothesis import given, settings
from hypothesis import strategies as st

from encfs.block.blob import BlobDevice, open_blob
from encfs.block.bloburl import parse_blob_url
from encfs.block.device import read
from encfs.block.retry import Retry
from encfs.errors import AccessDenied, ImageBusy, LeaseLost, StoreError, StoreUnavailable

Clock = trio.testing.MockClock
URL = parse_blob_url(f"https://localhost/{ACCOUNT}/images/disk")
SIZE = 64 << 10


@pytest.fixture
def network() -> Iterator[BadNetwork]:
    found = BadNetwork()
    yield found
    found.close()


class Tokens:
    """Bearer tokens from the tenant; `stale` makes the next one one that has expired."""

    def __init__(self, network: BadNetwork) -> None:
        self.network = network
        self.fetched = 0
        self.stale = 0
        self._token = ""

    async def token(self) -> str:
        if not self._token:
            self.fetched += 1
            self.stale, life = max(0, self.stale - 1), -60 if self.stale else 3600
            self._token = self.network.token(life)
        return self._token

    def forget(self) -> None:
        self._token = ""


async def opened(network: BadNetwork, *, read_only: bool = False, **options: object) -> BlobDevice:
    options = {"tokens": Tokens(network), "attempt_seconds": 10} | options
    return await open_blob(URL, read_only=read_only, transport=network, **options)  # type: ignore[arg-type]


@pytest.fixture
async def device(network: BadNetwork) -> BlobDevice:
    await network.page_blob(SIZE)
    return await opened(network)


# -- writes ---------------------------------------------------------------------------------------


async def test_every_write_names_lease_and_etag(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    etags = set()
    for index in range(3):
        await device.write(index * 512, b"x" * 512)
    for method, comp, headers in network.seen:
        if (method, comp) == ("PUT", "page"):
            assert device.lease is not None
            assert headers["x-ms-lease-id"] == device.lease.lease_id
            etags.add(headers["if-match"])
    assert len(etags) == 3
    await device.aclose()


async def test_busy_stores_are_waited_for_as_they_ask(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    network.faults.rules = network.faults.parse(["blob/put-page:status=503,retry-after=7,times=2"]).rules
    start = trio.current_time()
    await Retry(device).write(0, b"x" * 512)
    assert trio.current_time() - start == pytest.approx(14)
    assert await network.content() == b"x" * 512 + bytes(SIZE - 512)
    await device.aclose()


async def test_a_write_whose_answer_is_lost_is_written_again(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    network.lose_answers = 1
    await Retry(device).write(0, b"x" * 512)
    await device.write(512, b"y" * 512)
    assert not device.read_only
    assert (await network.content())[:1024] == b"x" * 512 + b"y" * 512
    await device.aclose()


async def test_a_write_that_arrives_late_does_not_land_on_a_newer_one(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    network.hold = True
    with pytest.raises(StoreUnavailable):
        await device.write(0, b"o" * 512)
    network.hold = False
    await device.write(0, b"n" * 512)
    for late in network.held:
        assert (await network.deliver(late)).status_code == 412
    assert (await network.content())[:512] == b"n" * 512
    await device.write(0, b"m" * 512)
    assert not device.read_only
    await device.aclose()


async def test_a_late_write_that_comes_before_the_fence_is_written_over(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    network.hold = True
    with pytest.raises(StoreUnavailable):
        await device.write(0, b"o" * 512)
    network.hold = False
    assert (await network.deliver(network.held.pop())).status_code == 201
    await device.write(0, b"n" * 512)
    assert (await network.content())[:512] == b"n" * 512
    assert not device.read_only
    await device.aclose()


async def test_writes_at_once_are_under_way_together(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    """Ten writes of a second each take little more than a second, and none counts as a stranger's."""
    await device.write(0, b"x" * 512)
    network.faults.rules = network.faults.parse(["blob/put-page:delay=1"]).rules
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for index in range(10):
            nursery.start_soon(device.write, index * 512, bytes([index]) * 512)
    assert trio.current_time() - start < 3
    assert (await network.content())[:5120] == b"".join(bytes([i]) * 512 for i in range(10))
    assert not device.read_only
    await device.aclose()


async def test_one_lost_answer_among_many_fences_all_of_them_off(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    patient = Retry(device)
    network.lose_answers = 3
    async with trio.open_nursery() as nursery:
        for index in range(10):
            nursery.start_soon(patient.write, index * 512, bytes([index + 1]) * 512)
    assert (await network.content())[:5120] == b"".join(bytes([i + 1]) * 512 for i in range(10))
    sequences = {h["x-ms-if-sequence-number-eq"] for _, comp, h in network.seen if comp == "page"}
    assert len(sequences) > 1
    assert not device.read_only
    await device.aclose()


async def test_a_write_that_is_under_way_when_others_are_fenced_off_is_written_again(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    deliver, slow = network.deliver, [True]

    async def delayed(request: object) -> object:
        # The write of the third sector is on its way for 5 s; the fence is faster.
        if slow and request.headers.get("x-ms-range") == "bytes=1024-1535":  # type: ignore[attr-defined]
            slow.clear()
            await trio.sleep(5)
        return await deliver(request)  # type: ignore[arg-type]

    network.deliver = delayed  # type: ignore[method-assign,assignment]
    network.faults.rules = network.faults.parse(["blob/put-page:delay=0.5,times=1"]).rules
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.write, 0, b"1" * 512)
        await trio.sleep(0.1)
        nursery.start_soon(device.write, 1024, b"3" * 512)  # waits for the one that started alone
        await trio.sleep(1)
        network.lose_answers = 1
        await Retry(device).write(512, b"2" * 512)
    network.deliver = deliver  # type: ignore[method-assign]
    assert (await network.content())[:1536] == b"1" * 512 + b"2" * 512 + b"3" * 512
    assert not device.read_only
    await device.aclose()


async def test_a_fence_that_is_raised_but_not_answered_yet_is_ours(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    """A write is refused by the new number before the answer to its raise is here."""
    handle, slow = network.handle_async_request, [True]

    async def late_answers(request: object) -> object:
        if slow and request.headers.get("x-ms-range") == "bytes=1024-1535":  # type: ignore[attr-defined]
            slow.clear()
            await trio.sleep(5)
        answer = await handle(request)  # type: ignore[arg-type]
        if "x-ms-sequence-number-action" in request.headers:  # type: ignore[attr-defined]
            await trio.sleep(9)
        return answer

    network.handle_async_request = late_answers  # type: ignore[method-assign,assignment]
    network.faults.rules = network.faults.parse(["blob/put-page:delay=0.5,times=1"]).rules
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.write, 0, b"1" * 512)
        await trio.sleep(0.1)
        nursery.start_soon(device.write, 1024, b"3" * 512)  # waits for the one that started alone
        await trio.sleep(1)
        network.lose_answers = 1
        await Retry(device).write(512, b"2" * 512)
    assert (await network.content())[:1536] == b"1" * 512 + b"2" * 512 + b"3" * 512
    assert not device.read_only
    await device.aclose()


async def test_a_stranger_among_many_writes_is_noticed_by_the_next_one_alone(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await device.write(0, b"1" * 512)
    assert device.lease is not None
    stolen = {
        "x_ms_lease_id": device.lease.lease_id,
        "x_ms_page_write": "update",
        "x_ms_range": "bytes=0-511",
    }
    assert (await network.owner("PUT", "comp=page", b"s" * 512, **stolen)).status_code == 201
    with pytest.raises(LeaseLost):
        await device.write(0, b"2" * 512)
    assert (await network.content())[:512] == b"s" * 512
    assert "read-only from here on" in caplog.text
    caplog.clear()


async def test_a_cancelled_write_leaves_the_device_usable(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    network.faults.rules = network.faults.parse(["blob/put-page:delay=5,times=1"]).rules
    with trio.move_on_after(1):
        await device.write(0, b"x" * 512)
    await device.write(512, b"y" * 512)
    assert (await network.content())[512:1024] == b"y" * 512
    await device.aclose()


# -- the lease ------------------------------------------------------------------------------------


async def test_an_outage_longer_than_the_lease_loses_nothing(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.keep_lease)
        network.down = True
        await trio.sleep(200)
        network.down = False
        await device.write(0, b"x" * 512)
        assert await read(device, 0, 512) == b"x" * 512
        nursery.cancel_scope.cancel()
    assert not device.read_only
    await device.aclose()


async def test_a_lease_that_ran_out_is_renewed_by_the_write_that_needs_it(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    await trio.sleep(100)
    assert await read(device, 0, 512) == bytes(512)
    await device.write(0, b"x" * 512)
    await trio.sleep(100)
    assert await read(device, 0, 512) == b"x" * 512
    await device.aclose()


async def test_a_lease_is_kept_for_as_long_as_it_takes(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.keep_lease)
        for _ in range(10):
            await trio.sleep(100)
            with pytest.raises(ImageBusy):
                await opened(network)
        nursery.cancel_scope.cancel()
    await device.aclose()
    other = await opened(network)
    await other.aclose()


async def test_another_writer_after_an_outage_ends_ours(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await trio.sleep(100)
    other = await opened(network)
    await other.write(0, b"o" * 512)
    with pytest.raises(LeaseLost):
        await device.write(0, b"x" * 512)
    assert device.read_only
    await other.aclose()
    with pytest.raises(LeaseLost):  # for good, although nobody holds it now
        await device.write(0, b"x" * 512)
    assert "read-only from here on" in caplog.text
    caplog.clear()
    assert (await network.content())[:512] == b"o" * 512


async def test_a_lease_lost_while_nothing_is_written_is_noticed_and_said(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.keep_lease)
        other = await opened(network, take_over=True)
        with trio.fail_after(20):
            while not device.read_only:
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [r.levelno for r in caplog.records if "read-only from here on" in r.message] == [logging.ERROR]
    caplog.clear()
    await other.aclose()


# -- reads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 511])
async def test_a_body_that_is_cut_off_is_read_again(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock, cut: int
) -> None:
    await device.write(0, b"x" * 512)
    network.faults.rules = network.faults.parse([f"blob/get:cut={cut},times=2"]).rules
    with pytest.raises(StoreUnavailable):
        await read(device, 0, 512)
    assert await read(Retry(device), 0, 512) == b"x" * 512
    await device.aclose()


async def test_a_body_that_was_changed_is_an_error(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    await device.write(0, b"x" * 512)
    reader = await opened(network, read_only=True, checked=True)
    deliver = network.deliver

    async def changed(request: object) -> object:
        answer = await deliver(request)  # type: ignore[arg-type]
        answer.stream = type(answer.stream)(b"y" * 512)  # type: ignore[call-arg]
        return answer

    network.deliver = changed  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreError, match="MD5"):
        await read(reader, 0, 512)
    network.deliver = deliver  # type: ignore[method-assign]
    await device.aclose()


async def test_a_store_that_stops_answering_ends_by_the_deadline(
    network: BadNetwork, device: BlobDevice, autojump_clock: Clock
) -> None:
    await device.write(0, b"x" * 512)
    network.faults.rules = network.faults.parse(["blob:delay=3600"]).rules
    start = trio.current_time()
    for work in (read(Retry(device, deadline=30), 0, 512), Retry(device, deadline=30).write(0, b"y" * 512)):
        with pytest.raises(StoreUnavailable):
            await work
    assert trio.current_time() - start <= 60
    network.faults.rules = ()
    await device.aclose()


# -- tokens ---------------------------------------------------------------------------------------


async def test_an_expired_token_is_renewed_once(network: BadNetwork, autojump_clock: Clock) -> None:
    await network.page_blob(SIZE)
    tokens = Tokens(network)
    device = await opened(network, tokens=tokens)
    await device.write(0, b"x" * 512)
    await trio.sleep(4000)  # the token has expired, and so has the lease
    await device.write(512, b"x" * 512)
    assert tokens.fetched == 2
    tokens.forget()
    tokens.stale = 1
    assert await read(device, 0, 512) == b"x" * 512
    tokens.forget()
    tokens.stale = 100
    with pytest.raises(AccessDenied, match="InvalidAuthenticationInfo"):
        await read(device, 0, 512)
    tokens.stale = 0
    tokens.forget()
    await device.aclose()


# -- everything at once ---------------------------------------------------------------------------

TROUBLE = st.sampled_from(["none", "none", "lost", "hold", "down", "503", "late", "sleep"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(TROUBLE, st.integers(0, 15), st.integers(1, 8)), max_size=6), max_size=8))
def test_what_was_accepted_at_once_is_there_whatever_happens(
    rounds: list[list[tuple[str, int, int]]],
) -> None:
    """The same with several writes at once, each to a part of its own; late ones arrive at any time."""

    async def one(network: BadNetwork, device: BlobDevice, trouble: str, offset: int, data: bytes) -> None:
        try:
            network.hold, network.lose_answers = trouble == "hold", int(trouble == "lost")
            await device.write(offset, data)
        except StoreUnavailable:
            network.hold = False
            if trouble == "late" and network.held:
                await network.deliver(network.held.pop(0))
            await Retry(device).write(offset, data)

    async def run() -> None:
        network = BadNetwork()
        try:
            await network.page_blob(SIZE)
            device = await opened(network)
            model = bytearray(SIZE)
            for number, steps in enumerate(rounds):
                async with trio.open_nursery() as nursery:
                    for lane, (trouble, first, count) in enumerate(steps):
                        offset = lane * 8192 + first * 512
                        data = bytes([number * 8 + lane + 1]) * (min(count, 16 - first) * 512)
                        nursery.start_soon(one, network, device, trouble, offset, data)
                        model[offset : offset + len(data)] = data
                network.hold, network.lose_answers = False, 0
                if number % 2 and network.held:
                    await network.deliver(network.held.pop())
            await device.write(SIZE - 512, b"!" * 512)
            model[SIZE - 512 :] = b"!" * 512
            for late in network.held:
                await network.deliver(late)
            assert await network.content() == model
            assert not device.read_only
            await device.aclose()
        finally:
            network.close()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TROUBLE, st.integers(0, SIZE // 512 - 1), st.integers(1, 8)), max_size=25))
def test_what_was_accepted_is_there_whatever_happens(steps: list[tuple[str, int, int]]) -> None:
    """Writes under random trouble, each repeated until it is accepted, against a model."""

    async def run() -> None:
        network = BadNetwork()
        try:
            await network.page_blob(SIZE)
            device = await opened(network)
            model = bytearray(SIZE)
            for number, (trouble, first, count) in enumerate(steps):
                data = bytes([number + 1]) * (min(count, SIZE // 512 - first) * 512)
                await _write_in_trouble(network, device, trouble, first * 512, data)
                model[first * 512 : first * 512 + len(data)] = data
            for late in network.held:
                await network.deliver(late)
            assert await network.content() == model
            assert await read(device, 0, SIZE) == model
            assert not device.read_only
            await device.aclose()
        finally:
            network.close()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def _write_in_trouble(
    network: BadNetwork, device: BlobDevice, trouble: str, offset: int, data: bytes
) -> None:
    network.lose_answers = 1 if trouble == "lost" else 0
    network.hold, network.down = trouble == "hold", trouble == "down"
    if trouble == "503":
        network.faults.rules = network.faults.parse(["blob:status=503,times=1"]).rules
        network.faults._seen.clear()
    if trouble == "late" and network.held:
        await network.deliver(network.held.pop(0))
    if trouble == "sleep":
        await trio.sleep(100)
    try:
        await device.write(offset, data)
        return
    except StoreUnavailable:
        network.hold = network.down = False
    await Retry(device).write(offset, data)
