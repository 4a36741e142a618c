"""Requests to one blob over httpx: bounded in time and size, authorised, answers checked or turned to errors.

Strategy: an httpx transport (`blobwire`) is used without httpx's client, because a client's cookies,
redirects, proxies and authentication flows are what must not happen here, and cost a third of the time of a
small request. A body that is read goes straight into the caller's buffer.

Rules: no redirect is followed, no proxy used; every attempt has a deadline; a token that the store does not
accept is dropped and asked for again once; a body that is shorter or longer than announced is an error that
may be repeated. Nothing is retried here: who knows what is safe to repeat decides (`retry`).

With `blobwire` the only user of httpx in this package.

Kind: adapter
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Protocol, TypeAlias

import httpx
import trio

from encfs.block.blobcodec import API_VERSION, parse_error, parse_retry_after
from encfs.block.blobfail import refusal
from encfs.block.bloburl import BlobUrl
from encfs.block.blobwire import Body, Wire
from encfs.block.device import Buffer
from encfs.errors import StoreError, StoreUnavailable

Transport: TypeAlias = httpx.AsyncBaseTransport
MAX_SMALL_BODY = 64 << 10
ATTEMPT_SECONDS = 30.0
_KEPT_TARGETS = 16
_PIECE = 128 << 10
_ALWAYS = [(b"accept-encoding", b"identity"), (b"x-ms-version", API_VERSION.encode())]


class BlobTokens(Protocol):
    """Bearer tokens for the blob service."""

    async def token(self) -> str:
        """A token, secret; kept until shortly before it expires.

        Raises:
            EncfsError: none could be had.
        """
        ...

    def forget(self) -> None:
        """Drop a token that was not accepted."""
        ...

    def expires_at(self) -> int:
        """When the token at hand expires, Unix seconds; 0 when there is none or it is not known."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A success: header names are lower case; `body` is empty when it went into the caller's buffer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Pieces(httpx.AsyncByteStream):
    """A body sent in pieces: layers below copy what they send, and must not need memory for all of it."""

    def __init__(self, body: Buffer) -> None:
        self._rest = memoryview(body)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        piece, self._rest = self._rest[:_PIECE], self._rest[_PIECE:]
        return piece  # type: ignore[return-value]  # sent as it is, and any buffer can be


class BlobHttp:
    """All requests to one blob.

    Args:
        url: the blob; its signature goes with every request.
        tokens: where bearer tokens come from; None for none.
        tls: what the server's certificate must lead to; None for the system's roots.
        transport: replaces the network, for tests.
        attempt_seconds: how long one attempt may take.
    """

    def __init__(
        self,
        url: BlobUrl,
        *,
        tokens: BlobTokens | None = None,
        tls: ssl.SSLContext | None = None,
        transport: Transport | None = None,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        self.url = url
        self.attempt_seconds = attempt_seconds
        self._tokens = tokens
        self._transport = transport or Wire(url, tls or ssl.create_default_context())
        self._targets: dict[str, httpx.URL] = {}

    @property
    def token_expiry(self) -> int:
        """When the bearer token at hand expires, Unix seconds; 0 without one."""
        return 0 if self._tokens is None else self._tokens.expires_at()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def send(
        self,
        method: str,
        query: str = "",
        *,
        headers: Mapping[str, str],
        doing: str,
        body: Buffer = b"",
        into: memoryview | None = None,
        max_body: int = MAX_SMALL_BODY,
    ) -> Reply:
        """One request, once; the second time only to renew a token.

        Args:
            method: upper case.
            query: like `comp=page`, without the signature.
            headers: besides version, length and authorisation.
            doing: for messages, as in "reading 4096 bytes at 0".
            body: bytes to send.
            into: takes the body of a success, which must fill it.
            max_body: bound of any other body.

        Raises:
            StoreUnavailable: no answer in time, a broken one, or one that says to try later.
            AccessDenied, ImageMissing, ImageBusy, ImageChanged, LeaseLost, StoreError: see `blobfail`.
        """
        reply = await self._attempt(method, query, headers, doing, body, into, max_body)
        if reply.status == 401 and self._tokens is not None:
            self._tokens.forget()
            reply = await self._attempt(method, query, headers, doing, body, into, max_body)
        if not 200 <= reply.status < 300:
            error = parse_error(reply.status, reply.headers, reply.body)
            raise refusal(error, self.url.name, doing=doing, retry_after=parse_retry_after(reply.headers))
        return reply

    async def _attempt(
        self,
        method: str,
        query: str,
        headers: Mapping[str, str],
        doing: str,
        body: Buffer,
        into: memoryview | None,
        max_body: int,
    ) -> Reply:
        # Outside the deadline of the attempt: fetching a token has a deadline of its own.
        lines = await self._header_lines(method, headers, len(body))
        request = httpx.Request(
            method,
            self._target(query),
            headers=lines,
            stream=_Pieces(body),
        )
        try:
            with trio.fail_after(self.attempt_seconds):
                return await self._exchange(request, doing, into, max_body)
        except trio.TooSlowError:
            message = f"image {self.url.name}: {doing}: no answer within {self.attempt_seconds:g} s"
            raise StoreUnavailable(message, hint="the store is slow, or the network is cut") from None
        except httpx.TransportError as exc:
            words = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
            message = f"image {self.url.name}: {doing}: {words}"
            if _is_certificate_refused(exc):  # asking again would not make a stranger trusted
                raise StoreError(message, hint="SIDECAR_CA_FILE names further roots to trust") from exc
            raise StoreUnavailable(message, hint="check the address and the network") from exc

    async def _exchange(
        self, request: httpx.Request, doing: str, into: memoryview | None, max_body: int
    ) -> Reply:
        response = await self._transport.handle_async_request(request)
        body = b""
        try:
            if into is not None and 200 <= response.status_code < 300:
                await self._fill(response, into, doing)
            else:
                body = await self._collect(response, max_body, doing)
        finally:
            await response.aclose()
        # Read as they came: finding out the encoding of each costs more than a small request's body.
        lines = response.headers.raw
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in lines}
        return Reply(response.status_code, headers, body)

    async def _collect(self, response: httpx.Response, max_body: int, doing: str) -> bytes:
        data = bytearray()
        async for part in response.stream:  # type: ignore[union-attr]
            data += part
            if len(data) > max_body:
                raise StoreError(f"image {self.url.name}: {doing}: an answer over {max_body} bytes")
        return bytes(data)

    async def _fill(self, response: httpx.Response, into: memoryview, doing: str) -> None:
        stream = response.stream
        if isinstance(stream, Body) and stream.length == len(into):
            await stream.fill(into)
            return
        done = 0
        async for part in response.stream:  # type: ignore[union-attr]
            if done + len(part) > len(into):
                raise StoreUnavailable(
                    f"image {self.url.name}: {doing}: a body over {len(into)} bytes, wanted exactly that"
                )
            into[done : done + len(part)] = part
            done += len(part)
        if done != len(into):
            raise StoreUnavailable(
                f"image {self.url.name}: {doing}: a body of {done} bytes, wanted {len(into)}"
            )

    def _target(self, query: str) -> httpx.URL:
        """The address with a query; parsed once a query, because parsing costs more than sending."""
        found = self._targets.get(query)
        if found is None:
            whole = "&".join(part for part in (query, self.url.sas) if part)
            found = httpx.URL(str(self.url) + (f"?{whole}" if whole else ""))
            if len(self._targets) < _KEPT_TARGETS:
                self._targets[query] = found
        return found

    async def _header_lines(
        self, method: str, headers: Mapping[str, str], length: int
    ) -> list[tuple[bytes, bytes]]:
        """No more than it takes, and as bytes: each line is looked at by three libraries."""
        lines = [(b"host", self.url.host.encode()), *_ALWAYS]
        lines += [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        if length or method == "PUT":
            lines.append((b"content-length", str(length).encode()))
        if self._tokens is not None:
            lines.append((b"x-ms-date", formatdate(usegmt=True).encode()))
            lines.append((b"authorization", f"Bearer {await self._tokens.token()}".encode("latin-1")))
        return lines


def _is_certificate_refused(exc: BaseException) -> bool:
    seen: BaseException | None = exc
    while seen is not None and not isinstance(seen, ssl.SSLCertVerificationError):
        seen = seen.__cause__ or seen.__context__
    return seen is not None
