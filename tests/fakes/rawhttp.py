"""Servers that say whatever a test wants, byte by byte, over real sockets; and requests to them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import trio

from encfs.block.bloburl import BlobUrl, parse_blob_url
from encfs.block.blobwire import Body, Wire

Talk = Callable[[trio.abc.Stream], Awaitable[None]]
NOT_TLS = ssl.create_default_context()
END = b"\r\n\r\n"


class Server:
    """Listens on loopback; each connection is one `talk`.

    Attributes:
        connections: how many there have been.
        closed: how many of them have ended.
    """

    def __init__(self, talk: Talk, tls: ssl.SSLContext | None = None) -> None:
        self._talk = talk
        self._tls = tls
        self.connections = 0
        self.closed = 0
        self.url = BlobUrl("http", "", "")

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, self._serve, 0)
            port = listeners[0].socket.getsockname()[1]
            host = "127.0.0.1" if self._tls is None else "localhost"
            scheme = "http" if self._tls is None else "https"
            self.url = parse_blob_url(f"{scheme}://{host}:{port}/account/images/disk")
            task_status.started()

    async def _serve(self, plain: trio.SocketStream) -> None:
        self.connections += 1
        stream: trio.abc.Stream = plain
        if self._tls is not None:
            stream = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
        try:
            await self._talk(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # clients may go away
        finally:
            self.closed += 1
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(talk, tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


async def hear(stream: trio.abc.Stream) -> bytes:
    """One request without a body; empty when the client has closed."""
    data = b""
    while END not in data:
        part = await stream.receive_some(4096)
        if not part:
            return b""
        data += part
    return data


def saying(*answers: bytes, pieces: int = 1 << 20) -> Talk:
    """Answers to requests, one each, in pieces; then the connection is closed."""

    async def talk(stream: trio.abc.Stream) -> None:
        for answer in answers:
            if not await hear(stream):
                return
            for start in range(0, len(answer), pieces):
                await stream.send_all(answer[start : start + pieces])
                if pieces < len(answer):
                    await trio.sleep(0)

    return talk


def ok(body: bytes, *lines: bytes, length: int | None = None) -> bytes:
    count = len(body) if length is None else length
    head = [b"HTTP/1.1 206 Partial Content", b"content-length: %d" % count, *lines]
    return b"\r\n".join(head) + END + body


async def get(wire: Wire, size: int | None = None, method: str = "GET") -> tuple[int, bytes]:
    """One exchange; with a size, the body is received into memory of that size."""
    request = httpx.Request(method, "http://elsewhere.invalid/x", headers=[("host", "h")])
    response = await wire.handle_async_request(request)
    try:
        stream = response.stream
        assert isinstance(stream, Body)
        if size is None:
            return response.status_code, b"".join([bytes(part) async for part in stream])
        memory = bytearray(size)
        await stream.fill(memoryview(memory))
        return response.status_code, bytes(memory)
    finally:
        await response.aclose()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.01)
