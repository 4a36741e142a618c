"""gRPC over any ASGI server that speaks HTTP/2 with trailers: frames, deadlines, statuses.

Strategy: a call is a function from message bytes to message bytes. The request stream is cut into frames as
it arrives and every message is answered in turn, which serves unary calls and the one streaming call that we
have (reflection, one answer per question) alike.

Rules: a message above the limit, a compressed one, or a stream that ends within a frame is refused; the
caller's deadline ends the work; a defect of ours becomes INTERNAL, its cause only in the log. A status always
travels as trailers behind headers: one in the place of headers must end the stream in the same frame, which
ASGI cannot say, and some clients see a broken stream then.

Spec: gRPC over HTTP/2; statuses and their meaning: gRPC status codes.

Kind: adapter
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import quote

import trio

from sidecar.asgi import AsgiApp, Receive, Scope, Send
from sidecar.errors import MalformedInput

log = logging.getLogger(__name__)

MAX_MESSAGE = 256 << 10  # bytes, as the HTTP API; a layer's key options have some thousand
MAX_DISCARDED = 8 << 20  # bytes of a refused call that are read to their end
DISCARD_SECONDS = 1.0
MAX_DEADLINE = 120.0  # seconds, also for callers that set none
_FRAME = struct.Struct(">BI")
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MAX_TEXT = 2048

Call = Callable[[bytes], Awaitable[bytes]]


class Code(IntEnum):
    """gRPC status codes that we use."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13


class GrpcError(Exception):
    """A call's failure: what the caller gets.

    Args:
        code: one of `Code`.
        message: one sentence, no secret.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Gone(Exception):
    """The caller left."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method; `streaming` when a caller may ask several times in one call."""

    call: Call
    streaming: bool = False


def grpc_app(endpoints: Mapping[str, Endpoint], *, done: Callable[[str, Code], None]) -> AsgiApp:
    """An ASGI application.

    Args:
        endpoints: by path, `/package.Service/Method`.
        done: told path and outcome of every call of a known method.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            await _plain(send, 415, b"this port speaks gRPC\n")
        elif "http.response.trailers" not in scope["extensions"] or scope["http_version"] != "2":
            await _plain(send, 505, b"gRPC needs HTTP/2\n")
        elif scope["method"] != "POST" or headers.get(b"te") != b"trailers":
            await _plain(send, 400, b"a gRPC call is a POST that accepts trailers\n")
        else:
            await _call(endpoints, scope, receive, send, _deadline(headers), done)

    return app


async def _call(
    endpoints: Mapping[str, Endpoint],
    scope: Scope,
    receive: Receive,
    send: Send,
    deadline: float,
    done: Callable[[str, Code], None],
) -> None:
    path = bytes(scope["raw_path"]).decode("latin-1")
    endpoint = endpoints.get(path)
    answering, messages = _Answering(send), _Messages(receive)
    try:
        if endpoint is None:
            code, words = Code.UNIMPLEMENTED, "no such method"
        else:
            code, words = await _outcome(path, endpoint, messages, answering, deadline)
            done(path, code)
        await messages.discard()
        await answering.end(code, words)
    except _Gone:
        log.debug("%s: the caller left early", path[:100])


async def _outcome(
    path: str, endpoint: Endpoint, messages: _Messages, answering: _Answering, deadline: float
) -> tuple[Code, str]:
    """Answer a call's messages; how it ended."""
    try:
        with trio.fail_after(deadline):
            await _answer(endpoint, messages, answering)
    except GrpcError as exc:
        return exc.code, str(exc)
    except MalformedInput as exc:
        return Code.INVALID_ARGUMENT, str(exc)
    except trio.TooSlowError:
        return Code.DEADLINE_EXCEEDED, f"no answer within {deadline:g} s"
    except _Gone:
        raise
    except Exception:
        log.exception("%s: failed", path)
        return Code.INTERNAL, "the service failed; its log has the cause"
    return Code.OK, ""


async def _answer(endpoint: Endpoint, messages: _Messages, answering: _Answering) -> None:
    count = 0
    while (message := await messages.next()) is not None:
        count += 1
        if count > 1 and not endpoint.streaming:
            raise GrpcError(Code.UNIMPLEMENTED, "more than one message in a unary call")
        await answering.send(await endpoint.call(message))
    if not count and not endpoint.streaming:
        raise GrpcError(Code.INVALID_ARGUMENT, "no message in the call")


class _Messages:
    """Messages of the request stream, each once it is whole."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self._more = True

    async def next(self) -> bytes | None:
        """The next message; None once the stream ended between two.

        Raises:
            GrpcError: too long, compressed, or cut.
        """
        while (end := self._end()) is None:
            if not self._more:
                if self._buffer:
                    raise GrpcError(Code.INVALID_ARGUMENT, "the call ends within a message")
                return None
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise _Gone
            self._buffer += event.get("body", b"")
            self._more = event.get("more_body", False)
        message = bytes(self._buffer[_FRAME.size : end])
        del self._buffer[:end]
        return message

    async def discard(self) -> None:
        """Read the rest of the stream, within bounds: a caller that still sends would see no status."""
        left = MAX_DISCARDED
        self._buffer.clear()
        with trio.move_on_after(DISCARD_SECONDS):
            while self._more and left > 0:
                event = await self._receive()
                if event["type"] == "http.disconnect":
                    raise _Gone
                left -= len(event.get("body", b""))
                self._more = event.get("more_body", False)

    def _end(self) -> int | None:
        """Where the first message ends; None while it is not whole."""
        if len(self._buffer) < _FRAME.size:
            return None
        compressed, length = _FRAME.unpack_from(self._buffer)
        if compressed:
            raise GrpcError(Code.UNIMPLEMENTED, "compressed messages are not accepted")
        if length > MAX_MESSAGE:
            raise GrpcError(Code.RESOURCE_EXHAUSTED, f"a message of {length} bytes, at most {MAX_MESSAGE}")
        end = _FRAME.size + int(length)
        return None if len(self._buffer) < end else end


class _Answering:
    """The response of one call: headers with the first message, trailers at the end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False

    async def send(self, message: bytes) -> None:
        await self._start()
        body = _FRAME.pack(0, len(message)) + message
        await self._to_caller({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, code: Code, words: str) -> None:
        await self._start()
        await self._to_caller({"type": "http.response.body", "body": b"", "more_body": False})
        await self._to_caller(
            {"type": "http.response.trailers", "headers": list(_status(code, words).items())}
        )

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"application/grpc")]
            await self._to_caller(
                {"type": "http.response.start", "status": 200, "headers": headers, "trailers": True}
            )

    async def _to_caller(self, event: dict[str, object]) -> None:
        try:
            await self._send(event)
        except (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError):
            raise _Gone from None


def _status(code: Code, words: str) -> dict[bytes, bytes]:
    found = {b"grpc-status": str(int(code)).encode()}
    if words:
        # Percent encoding keeps what is printable and no percent sign.
        text = quote(words[:_MAX_TEXT], safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")
        found[b"grpc-message"] = text.encode("ascii")
    return found


def _deadline(headers: Mapping[bytes, bytes]) -> float:
    """Seconds the caller grants, at most ours."""
    match = _TIMEOUT.fullmatch(headers.get(b"grpc-timeout", b"").decode("latin-1"))
    return min(int(match[1]) * _UNITS[match[2]], MAX_DEADLINE) if match else MAX_DEADLINE


async def _plain(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
