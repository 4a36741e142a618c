"""An httpx transport to one place, over trio, that receives bodies straight into the caller's memory.

Why: httpx's own transport takes twice the processor time for a small request, and copies a large body three
times; cold reads of a volume in a blob were half as fast with it.

Strategy: h11 writes and reads the heads, and everything whose length is not known beforehand. A body of known
length that somebody has memory for does not pass through it: `Body.fill` hands that memory to the socket.

Rules: a connection carries one exchange at a time, and is used again only when the answer was read to its
last byte, nothing came after it, and the other side does not want to close; whatever goes wrong, it is
dropped. It leads to the place it was made for and nowhere else. Errors are httpx's. Nothing is repeated, no
redirect is followed, no proxy used; how long all of it may take is the caller's to say.

Spec: RFC 9112 sections 6.3 (length of a body) and 9.3 (persistence).

Kind: adapter
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import h11
import httpx
import trio

from encfs.block.blobsocket import BlobSocket, connect
from encfs.block.bloburl import BlobUrl

_CONNECTIONS = 32
_CONNECT_SECONDS = 5.0
# Shorter than what servers, and what stands before them, allow an idle connection: each one that was closed
# on the way costs a request and a pause.
_IDLE_SECONDS = 4.0
_MAX_INFORMATIONAL = 8
_PIECE = 16 << 10
# Others have their turn between two of these.
_DIRECT_PIECE = 1 << 20
# A body up to this size goes with its head: one call, one packet or two.
_SENT_TOGETHER = 16 << 10


class Wire(httpx.AsyncBaseTransport):
    """Connections to the place of one blob.

    Args:
        url: its scheme and host are where every request goes, whatever the request's own address says.
        tls: what the server's certificate must lead to; used when the scheme is https.
    """

    def __init__(self, url: BlobUrl, tls: ssl.SSLContext) -> None:
        parts = httpx.URL(str(url))
        self._host = parts.host
        self._port = parts.port or (443 if url.scheme == "https" else 80)
        self._tls = tls if url.scheme == "https" else None
        self._idle: list[_Connection] = []
        self._turns = trio.Semaphore(_CONNECTIONS)
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange; its connection is busy until the response is closed.

        Raises:
            httpx.TransportError: no connection, a broken one, or an answer that is not HTTP.
        """
        try:
            self._turns.acquire_nowait()
        except trio.WouldBlock:
            await self._turns.acquire()
        connection: _Connection | None = None
        try:
            connection = self._take() or await self._connect()
            head = await connection.ask(request)
        except BaseException:
            self._end(connection, keep=False)
            raise
        body = Body(self, connection, head, request.method)
        return httpx.Response(head.status_code, headers=head.headers.raw_items(), stream=body)

    def _take(self) -> _Connection | None:
        """The connection used last that nobody closed since."""
        oldest = trio.current_time() - _IDLE_SECONDS
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.pop(0).socket.drop()
        while self._idle:
            connection = self._idle.pop()
            if connection.socket.is_silent():
                return connection
            connection.socket.drop()
        return None

    async def _connect(self) -> _Connection:
        try:
            with trio.fail_after(_CONNECT_SECONDS):
                return _Connection(await connect(self._host, self._port, self._tls))
        except trio.TooSlowError:
            raise httpx.ConnectTimeout(f"no connection within {_CONNECT_SECONDS:g} s") from None
        except OSError as exc:
            raise httpx.ConnectError(_words(exc)) from exc

    def _end(self, connection: _Connection | None, *, keep: bool) -> None:
        """An exchange is over."""
        self._turns.release()
        if connection is None:
            return
        if keep and not self._closed:
            connection.idle_since = trio.current_time()
            self._idle.append(connection)
        else:
            connection.socket.drop()

    async def aclose(self) -> None:
        """Close what is idle now, and what is busy when its exchange is over."""
        self._closed = True
        while self._idle:
            self._idle.pop().socket.drop()


class Body(httpx.AsyncByteStream):
    """What follows the head of an answer: read it by `fill`, or piece by piece, and close it.

    Attributes:
        length: bytes, where the head says it; None when only the end will.
    """

    def __init__(self, wire: Wire, connection: _Connection, head: h11.Response, method: str) -> None:
        self._wire = wire
        self._connection: _Connection | None = connection
        self._keep = _is_lasting(head)
        self._whole = False
        self.length = _length(head, method)

    async def fill(self, view: memoryview) -> None:
        """Receive the body into `view`, which has its `length`.

        Raises:
            httpx.TransportError: the connection broke, or ended too early.
        """
        assert self._connection is not None
        assert self.length == len(view)
        await self._connection.receive_into(view)
        self._whole = not self._connection.has_more()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self  # and no generator: one that is left early waits for its end

    async def __anext__(self) -> bytes:
        assert self._connection is not None
        part = await self._connection.receive_part()
        if part is None:
            self._whole = not self._connection.has_more()
            raise StopAsyncIteration
        return part

    async def aclose(self) -> None:
        """Give the connection back, or drop it when the body was not read to its end. Never waits."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._wire._end(connection, keep=self._keep and self._whole)


class _Connection:
    """One connection, and the state of the exchange on it."""

    def __init__(self, socket: BlobSocket) -> None:
        self.socket = socket
        self._http = h11.Connection(h11.CLIENT)
        self._piece = memoryview(bytearray(_PIECE))
        self.idle_since = 0.0

    async def ask(self, request: httpx.Request) -> h11.Response:
        """Send a request and receive the head of its answer."""
        self._http = h11.Connection(h11.CLIENT)
        with _failures():
            broken: OSError | None = None
            try:
                await self._send(request)
            except OSError as exc:
                broken = exc  # a server may answer, and close, before it has read the whole body
            try:
                return await self._receive_head()
            except (OSError, h11.RemoteProtocolError) as exc:
                raise broken or exc from None

    async def _send(self, request: httpx.Request) -> None:
        # As they are: h11 checks every line of them.
        start = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
        waiting = self._http.send(start) or b""
        async for piece in request.stream:  # type: ignore[union-attr]
            if waiting and len(piece) <= _SENT_TOGETHER:
                waiting += bytes(piece)
                self._http.send_with_data_passthrough(h11.Data(data=piece))
                continue
            if waiting:
                await self.socket.send_all(waiting)
                waiting = b""
            for part in self._http.send_with_data_passthrough(h11.Data(data=piece)) or ():
                await self.socket.send_all(part)
        self._http.send(h11.EndOfMessage())
        if waiting:
            await self.socket.send_all(waiting)

    async def _receive_head(self) -> h11.Response:
        for _ in range(_MAX_INFORMATIONAL):
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise httpx.RemoteProtocolError("the connection was closed instead of an answer")
        raise httpx.RemoteProtocolError("only preliminary answers")

    async def _next_event(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            count = await self.socket.receive_into(self._piece)
            self._http.receive_data(bytes(self._piece[:count]))
        if isinstance(event, h11.Event):
            return event
        raise httpx.RemoteProtocolError("something that is not an answer")

    async def receive_part(self) -> bytes | None:
        """What comes next of the body; None at its end."""
        with _failures():
            event = await self._next_event()
            if isinstance(event, h11.Data):
                return event.data
            if not isinstance(event, h11.EndOfMessage):
                raise httpx.RemoteProtocolError("a body that does not end")
            return None

    async def receive_into(self, view: memoryview) -> None:
        """The body, whose length is that of `view`."""
        done = 0
        with _failures():
            while done < len(view):
                event = self._http.next_event()  # what came with the head
                if event is h11.NEED_DATA:
                    break
                assert isinstance(event, h11.Data)
                view[done : done + len(event.data)] = event.data
                done += len(event.data)
            while done < len(view):
                count = await self.socket.receive_into(view[done : done + _DIRECT_PIECE])
                if not count:
                    raise httpx.RemoteProtocolError(f"a body of {done} bytes, wanted {len(view)}")
                done += count

    def has_more(self) -> bool:
        """Whether more came than the answer."""
        return bool(self._http.trailing_data[0])


def _length(head: h11.Response, method: str) -> int | None:
    """Bytes of the body, as RFC 9112 section 6.3 tells them; h11 has refused lengths that disagree."""
    if method == "HEAD" or head.status_code in (204, 304):
        return 0
    named = dict(head.headers)
    if b"transfer-encoding" in named or b"content-length" not in named:
        return None
    return int(named[b"content-length"])


def _is_lasting(head: h11.Response) -> bool:
    if head.http_version < b"1.1":
        return False
    words = [value.lower() for name, value in head.headers if name == b"connection"]
    return b"close" not in b",".join(words).replace(b" ", b"").split(b",")


@contextmanager
def _failures() -> Iterator[None]:
    """Say what went wrong as httpx does."""
    try:
        yield
    except h11.RemoteProtocolError as exc:
        raise httpx.RemoteProtocolError(str(exc)) from exc
    except h11.LocalProtocolError as exc:
        raise httpx.LocalProtocolError(str(exc)) from exc
    except OSError as exc:
        raise httpx.ReadError(_words(exc)) from exc


def _words(exc: BaseException) -> str:
    """The innermost reason of an error; trio tries several addresses, and groups what each said."""
    while (inner := exc.exceptions[0] if isinstance(exc, BaseExceptionGroup) else exc.__cause__) is not None:
        exc = inner
    if isinstance(exc, ConnectionError) and exc.errno:
        return os.strerror(exc.errno)
    return str(exc) or type(exc).__name__
