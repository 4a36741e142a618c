"""The HTTP client: bounded, with deadlines and retries, and nothing that callers could forget.

Rules: no redirect is followed and no proxy or netrc of the environment is used (a token must not take a
detour); a body over the bound is an error; connection failures, 408, 429 and 5xx are tried again, honouring
Retry-After, until the tries or the deadline end; every other answer is returned as it is.

The only user of httpx and tenacity.

Kind: adapter
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import certifi
import httpx
import tenacity
import trio

from sidecar.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from cryptography import x509

log = logging.getLogger(__name__)

CA_VARIABLE = "SIDECAR_CA_FILE"
MAX_BODY = 1 << 20
DEADLINE = 60.0
CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
TRIES = 4
MAX_PAUSE = 20.0
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_DEBIAN_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; header names are lower case. The body may be secret, so it stays out of `repr`."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StreamedResponse:
    """An answer whose body is still coming; header names are lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    pieces: AsyncGenerator[bytes, None] = field(repr=False)


class _TryAgain(Exception):
    """An answer, or its absence, after which the same request may succeed."""

    def __init__(self, response: Response | None, error: Exception | None = None) -> None:
        super().__init__()
        self.response = response
        self.error = error


class Http:
    """A client for all services. Close it with `aclose`, or use it as an async context manager.

    Args:
        tls: what server certificates must lead to; see `tls_context`.
        transport: replaces the network, for tests.
    """

    def __init__(self, tls: ssl.SSLContext, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            verify=tls,
            transport=transport,
            headers={"accept-encoding": "identity"},
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=60),
        )

    async def __aenter__(self) -> Http:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """One GET; see `send`."""
        return await self.send("GET", url, headers=headers)

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        max_body: int = MAX_BODY,
        deadline: float = DEADLINE,
        tries: int = TRIES,
    ) -> Response:
        """Send a request, again where that may help, and return the answer whatever its status.

        Args:
            method: upper case.
            url: complete.
            headers: extra ones; may hold an access token, secret.
            body: bytes to send; may be secret.
            max_body: bound of the answer's body in bytes.
            deadline: seconds for all tries together.
            tries: how often at most.

        Raises:
            ServiceError: no answer within the deadline, or one that is too large.
        """
        where = _where(method, url)
        retrying = tenacity.AsyncRetrying(
            sleep=trio.sleep,
            stop=tenacity.stop_after_attempt(tries),
            wait=_pause,
            retry=tenacity.retry_if_exception_type(_TryAgain),
            reraise=True,
        )
        try:
            with trio.fail_after(deadline):
                return await retrying(self._once, method, url, dict(headers or {}), body, max_body, where)
        except _TryAgain as again:
            if again.response is not None:
                return again.response
            raise ServiceError(
                f"{where}: no answer after {tries} tries: {_words(again.error)}",
                hint="check the host name, the network and the CA it is signed by",
            ) from again.error
        except trio.TooSlowError:
            raise ServiceError(f"{where}: no answer within {deadline:g} s") from None

    @asynccontextmanager
    async def stream(
        self, url: str, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[StreamedResponse]:
        """One GET, not repeated, whose body is read piece by piece; no deadline but one between pieces.

        Args:
            url: complete.
            headers: extra ones; may hold an access token, secret.

        Raises:
            ServiceError: no answer, or the connection broke; also while the pieces are read.
        """
        where = _where("GET", url)
        try:
            async with self._client.stream("GET", url, headers=dict(headers or {})) as answer:
                pieces = cast(AsyncGenerator[bytes, None], answer.aiter_raw())
                async with aclosing(pieces):
                    yield StreamedResponse(answer.status_code, dict(answer.headers), pieces)
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as exc:
            raise ServiceError(f"{where}: {_words(exc)}") from exc

    async def _once(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, max_body: int, where: str
    ) -> Response:
        try:
            async with self._client.stream(method, url, headers=headers, content=body) as answer:
                data = bytearray()
                chunks = cast(AsyncGenerator[bytes, None], answer.aiter_bytes())
                async with aclosing(chunks) as parts:
                    async for part in parts:
                        data += part
                        if len(data) > max_body:
                            raise ServiceError(f"{where}: an answer of over {max_body} bytes")
                response = Response(answer.status_code, dict(answer.headers), bytes(data))
        except httpx.TransportError as exc:
            log.debug("%s: %s", where, _words(exc))
            raise _TryAgain(None, exc) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise ServiceError(f"{where}: {_words(exc)}") from exc
        if response.status in _RETRIED:
            log.debug("%s: status %d", where, response.status)
            raise _TryAgain(response)
        return response


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: what Retry-After says, within bounds, else growing and jittered."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, _TryAgain) and error.response is not None:
        asked = error.response.headers.get("retry-after", "")
        if asked.isascii() and asked.isdigit():
            return min(float(asked), MAX_PAUSE)
    return float(tenacity.wait_exponential_jitter(multiplier=0.5, max=MAX_PAUSE, jitter=0.5)(state))


def _where(method: str, url: str) -> str:
    """Method, host and path; the query stays out, it can hold a signature."""
    parts = urlsplit(url)
    return f"{method} {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _words(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer against the system's roots, and those of `ca_file`.

    Raises:
        UsageError: the file cannot be read or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in _root_files(ca_file):
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as exc:
            raise UsageError(f"CA file {path}: {exc}", hint=f"{CA_VARIABLE} names a PEM file") from exc
    return context


def trusted_roots(ca_file: Path | None = None) -> list[x509.Certificate]:
    """The same roots as certificates, for chains that come inside signed answers."""
    from cryptography import x509  # 11 MiB, which a driver that only needs TLS goes without

    context = tls_context(ca_file)
    return [x509.load_der_x509_certificate(der) for der in context.get_ca_certs(binary_form=True)]


def _root_files(ca_file: Path | None) -> list[Path]:
    """The system's bundle, or certifi's where the system has none, and the extra file."""
    found = [Path(path) for path in (ssl.get_default_verify_paths().cafile, _DEBIAN_BUNDLE) if path]
    bundle = next((path for path in found if path.is_file()), Path(certifi.where()))
    return [bundle] if ca_file is None else [bundle, ca_file]
