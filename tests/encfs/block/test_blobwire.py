"""The transport of blobs against servers that say whatever they like, over real sockets."""

from __future__ import annotations

import httpx
import pytest
import trio
from fakes.rawhttp import END, NOT_TLS, get, hear, ok, saying, serving, until
from hypothesis import given, settings
from hypothesis import strategies as st

from encfs.block import blobwire
from encfs.block.blobhttp import BlobHttp
from encfs.block.blobwire import Wire
from encfs.errors import StoreError, StoreUnavailable

# -- answers that are as they should be -----------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 511, 4096, 70_000, 3_000_000])
@pytest.mark.parametrize("into", [True, False])
async def test_a_body_arrives_whole_and_the_connection_serves_again(size: int, into: bool) -> None:
    body = bytes(number % 251 for number in range(size))
    async with serving(saying(*[ok(body)] * 3)) as server:
        wire = Wire(server.url, NOT_TLS)
        for _ in range(3):
            assert await get(wire, size if into else None) == (206, body)
        assert server.connections == 1
        await wire.aclose()
        await until(lambda: server.closed == 1)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(0, 300), pieces=st.integers(1, 400), heads=st.integers(0, 2), count=st.integers(1, 3))
def test_however_an_answer_is_cut_into_pieces(size: int, pieces: int, heads: int, count: int) -> None:
    body = bytes(range(256))[:size] + bytes(max(0, size - 256))
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" * heads + ok(body, b"etag: 1")

    async def run() -> None:
        async with serving(saying(*[answer] * count, pieces=pieces)) as server:
            wire = Wire(server.url, NOT_TLS)
            for number in range(count):
                assert await get(wire, size if number % 2 else None) == (206, body)
            assert server.connections == 1
            await wire.aclose()

    trio.run(run)


async def test_a_body_in_chunks_and_one_that_ends_with_the_connection() -> None:
    chunked = b"HTTP/1.1 500 Oh\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    until_the_end = b"HTTP/1.1 500 Oh\r\n\r\nabcde"
    async with serving(saying(chunked, until_the_end)) as server:
        wire = Wire(server.url, NOT_TLS)
        assert await get(wire) == (500, b"abcde")
        assert await get(wire) == (500, b"abcde")
        assert server.connections == 1
        assert await get(wire) == (500, b"abcde")
        assert server.connections == 2, "a connection that has ended is not used again"
        await wire.aclose()


async def test_an_answer_to_head_has_no_body_whatever_its_length_says() -> None:
    async with serving(saying(ok(b"", length=1 << 40), ok(b"x"))) as server:
        wire = Wire(server.url, NOT_TLS)
        assert await get(wire, method="HEAD") == (206, b"")
        assert await get(wire, 1) == (206, b"x")
        assert server.connections == 1
        await wire.aclose()


# -- when a connection is used again --------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"x", b"connection: close"),
        ok(b"x", b"connection: keep-alive, Close"),
        ok(b"x").replace(b"HTTP/1.1", b"HTTP/1.0"),
        ok(b"x") + b"y",
        ok(b"x") + ok(b"forged"),
    ],
)
@pytest.mark.parametrize("pieces", [1 << 20, 1])
async def test_what_ends_a_connection(answer: bytes, pieces: int) -> None:
    async with serving(saying(answer, ok(b"2"), pieces=pieces)) as server:
        wire = Wire(server.url, NOT_TLS)
        assert await get(wire, 1) == (206, b"x")
        await trio.sleep(0.05)  # what comes after the answer is there before the next question
        assert await get(wire, 1) == (206, b"x")
        assert server.connections == 2
        await wire.aclose()


async def test_a_connection_whose_body_was_not_read_is_dropped() -> None:
    async with serving(saying(ok(bytes(100_000)), ok(b"2"))) as server:
        wire = Wire(server.url, NOT_TLS)
        request = httpx.Request("GET", "http://h/", headers=[("host", "h")])
        await (await wire.handle_async_request(request)).aclose()
        await until(lambda: server.closed == 1)
        await wire.aclose()


async def test_a_connection_that_is_busy_at_the_end_is_closed_after_its_exchange() -> None:
    async with serving(saying(ok(b"1"), ok(b"2"))) as server:
        wire = Wire(server.url, NOT_TLS)
        request = httpx.Request("GET", "http://h/", headers=[("host", "h")])
        response = await wire.handle_async_request(request)
        await wire.aclose()
        assert await response.aread() == b"1"
        await response.aclose()
        await until(lambda: server.closed == 1)


async def test_a_server_that_closes_what_is_idle_costs_no_request() -> None:
    async with serving(saying(ok(b"1"))) as server:
        wire = Wire(server.url, NOT_TLS)
        for number in range(1, 4):
            assert await get(wire, 1) == (206, b"1")
            await until(lambda number=number: server.closed == number)
        assert server.connections == 3
        await wire.aclose()


async def test_a_connection_that_was_idle_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobwire, "_IDLE_SECONDS", 0.05)
    async with serving(saying(*[ok(b"1")] * 2)) as server:
        wire = Wire(server.url, NOT_TLS)
        assert await get(wire, 1) == (206, b"1")
        await trio.sleep(0.1)
        assert await get(wire, 1) == (206, b"1")
        assert server.connections == 2
        await until(lambda: server.closed == 1)
        await wire.aclose()


async def test_cancelled_exchanges_leave_room_for_others() -> None:
    """More than there may be at once: each gave back its place, and dropped its connection."""

    async def silent(stream: trio.abc.Stream) -> None:
        await hear(stream)
        await stream.send_all(ok(b"", length=4096) + b"half")
        await stream.receive_some(1)

    async with serving(silent) as server:
        wire = Wire(server.url, NOT_TLS)
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(get, wire, 4096)
            await until(lambda: server.connections == 32)
            await trio.sleep(0.05)
            assert server.connections == 32
            nursery.cancel_scope.cancel()
        await until(lambda: server.closed == 32)
        with trio.move_on_after(0.2) as scope:
            await get(wire, 4096)
        assert scope.cancelled_caught
        assert server.connections == 33
        await wire.aclose()


# -- answers that are not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200", httpx.RemoteProtocolError),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20, httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\nx", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 40 + b"\r\n\r\nx", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000 + b"\r\n", httpx.RemoteProtocolError),
        (ok(b"abc", length=4), httpx.RemoteProtocolError),
    ],
)
async def test_what_is_not_an_answer(answer: bytes, kind: type[Exception]) -> None:
    async with serving(saying(answer)) as server:
        wire = Wire(server.url, NOT_TLS)
        with trio.fail_after(10), pytest.raises(kind):
            await get(wire)
        await until(lambda: server.closed == 1)
        await wire.aclose()


@pytest.mark.parametrize("there", [0, 1, 5000, 99_999])
async def test_a_body_that_ends_too_early(there: int) -> None:
    async with serving(saying(ok(bytes(there), length=100_000))) as server:
        wire = Wire(server.url, NOT_TLS)
        with pytest.raises(httpx.RemoteProtocolError, match=f"a body of {there} bytes, wanted 100000"):
            await get(wire, 100_000)
        await wire.aclose()


@pytest.mark.parametrize("size", [99, 101])
async def test_a_body_of_another_length_than_asked_is_an_error(size: int) -> None:
    async with serving(saying(ok(bytes(size)))) as server:
        http = BlobHttp(server.url)
        with pytest.raises(StoreUnavailable, match="wanted"):
            await http.send("GET", headers={}, doing="reading", into=memoryview(bytearray(100)))
        await http.aclose()


async def test_an_answer_that_comes_before_the_body_was_sent_is_heard() -> None:
    async def refuse(stream: trio.abc.Stream) -> None:
        await hear(stream)
        await stream.send_all(b"HTTP/1.1 412 No\r\ncontent-length: 3\r\nconnection: close\r\n\r\nwhy")
        await trio.sleep(0.2)

    async with serving(refuse) as server:
        http = BlobHttp(server.url)
        with pytest.raises(StoreError, match="412"):
            await http.send("PUT", "comp=page", headers={}, doing="writing", body=bytes(16 << 20))
        await http.aclose()


@pytest.mark.parametrize("size", [0, 1, 16 << 10, (16 << 10) + 1, 300_000])
async def test_a_body_is_sent_as_it_is(size: int) -> None:
    body = bytes(number % 253 for number in range(size))
    heard = bytearray()

    async def listen(stream: trio.abc.Stream) -> None:
        data = await hear(stream)
        head, _, rest = data.partition(END)
        heard.extend(rest)
        assert b"content-length: %d" % size in head
        while len(heard) < size:
            heard.extend(await stream.receive_some(65536))
        await stream.send_all(b"HTTP/1.1 201 Made\r\ncontent-length: 0\r\n\r\n")

    async with serving(listen) as server:
        http = BlobHttp(server.url)
        reply = await http.send("PUT", "comp=page", headers={}, doing="writing", body=memoryview(body))
        assert (reply.status, bytes(heard)) == (201, body)
        await http.aclose()


async def test_a_header_that_would_be_two_is_not_sent() -> None:
    async with serving(saying(ok(b"x"))) as server:
        wire = Wire(server.url, NOT_TLS)
        request = httpx.Request("GET", "http://h/", headers=[("host", "h"), ("a", "b\r\nc: d")])
        with pytest.raises(httpx.LocalProtocolError):
            await wire.handle_async_request(request)
        await wire.aclose()


async def test_nobody_there() -> None:
    async with serving(saying()) as server:
        pass
    with pytest.raises(httpx.ConnectError, match=r"^Connection refused$"):
        await get(Wire(server.url, NOT_TLS))
