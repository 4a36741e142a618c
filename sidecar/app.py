"""The local HTTP API: request value to response value, no sockets.

Routes, bodies and statuses are the predecessor's contract: 400 for a request that is wrong, 403 where
attestation or release did not succeed, 500 for a defect of ours; an error is `{"error": text}`, and every
answer is one JSON document. Beyond it: `/healthz`, `/readyz`, `/metrics`, `/openapi.json`, and 503 when more
requests are under way than there is any use in starting.

Kind: composition
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import trio

from sidecar.akv import KeyRef, parse_key_ref
from sidecar.allow import ANYTHING, Allowed
from sidecar.attesting import Attester, WrappingKeys
from sidecar.collateral import roots_for
from sidecar.errors import MalformedInput, Overloaded, SidecarError
from sidecar.jose import b64_any_decode
from sidecar.maa import report_data_for
from sidecar.metrics import CONTENT_TYPE, Metrics
from sidecar.openapi import document
from sidecar.redact import redact
from sidecar.release import Guest, attest
from sidecar.services import Authority, Services, Vault
from sidecar.snp.verify import verify_evidence
from sidecar.strictjson import JsonObject, dump_json, load_object, optional_text, text_member
from sidecar.web import Handler, Router, WebRequest, WebResponse, json_response

log = logging.getLogger(__name__)

MAX_RUNTIME_DATA = 64 << 10
MAX_AT_ONCE = 128
READY_AGAIN_SECONDS = 600.0  # how old the knowledge that this guest can attest may get
NOT_READY_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
_REFUSED = 403
Wanted = TypeVar("Wanted")


@dataclass(slots=True)
class App:
    """The API over one guest and its services; `not_ready` says why it cannot attest, empty when it can."""

    guest: Guest
    services: Services
    attester: Attester
    keys: WrappingKeys
    allowed: Allowed = ANYTHING
    not_ready: str = "starting"
    metrics: Metrics = field(default_factory=lambda: Metrics("sidecar"))
    _router: Router = field(init=False)
    _counted: Callable[..., None] = field(init=False)
    _timed: Callable[..., None] = field(init=False)
    _at_once: int = 0

    def __post_init__(self) -> None:
        self._router = self._routes()
        self._counted = self.metrics.counter("requests_total", "Answers.", "route", "status")
        self._timed = self.metrics.histogram("request_seconds", "Seconds to an answer.", "route")
        self._add_gauges()

    async def check_ready(self) -> None:
        """Take one report and verify it, so that `/status` says what is true."""
        try:
            evidence = await self.guest.evidence(bytes(64))
            verify_evidence(
                evidence.raw.report,
                evidence.collateral.chain,
                roots=roots_for(self.guest.source),
                at=datetime.now(UTC),
            )
        except SidecarError as exc:
            if str(exc) != self.not_ready:
                log.error("not ready: %s", exc)
            self.not_ready = str(exc)
        else:
            if self.not_ready:
                log.info("ready: reports from %s", self.guest.source.name)
            self.not_ready = ""

    async def keep_ready(self) -> None:
        """Check for ever: soon again while not ready, seldom afterwards; run it in a nursery."""
        failures = 0
        while True:
            failures = failures + 1 if self.not_ready else 0
            pauses = NOT_READY_PAUSES
            await trio.sleep(
                pauses[min(failures, len(pauses)) - 1] if self.not_ready else READY_AGAIN_SECONDS
            )
            await self.check_ready()

    def _add_gauges(self) -> None:
        gauge, attester = self.metrics.gauge, self.attester
        gauge("ready", "1 when this guest can attest.", lambda: {(): 0 if self.not_ready else 1})
        gauge("requests_at_once", "Requests under way.", lambda: {(): self._at_once})
        gauge("wrapping_keys_ready", "Wrapping keys made ahead.", lambda: {(): self.keys.ready})
        gauge("attestation_tokens_made_total", "Tokens asked for.", lambda: {(): attester.made})
        gauge("attestation_tokens_reused_total", "Uses of one at hand.", lambda: {(): attester.reused})
        gauge(
            "attestation_token_expiry_seconds",
            "Unix time at which the token at hand expires.",
            lambda: _by_name(attester.expiries()),
            "authority",
        )
        gauge(
            "access_token_expiry_seconds",
            "Unix time at which the access token at hand expires.",
            lambda: _by_name(self.services.tokens.expiries()),
            "audience",
        )

    def _routes(self) -> Router:
        router = Router()
        router.add("status", "GET", "/status", self._status)
        router.add("healthz", "GET", "/healthz", _alive)
        router.add("readyz", "GET", "/readyz", self._status)
        router.add("metrics", "GET", "/metrics", self._metrics)
        router.add("openapi", "GET", "/openapi.json", _openapi)
        router.add("attest-raw", "POST", "/attest/raw", self._acting(self._parse_raw, self._raw))
        combined = self._acting(self._parse_raw, self._combined)
        router.add("attest-combined", "POST", "/attest/combined", combined)
        router.add("attest-maa", "POST", "/attest/maa", self._acting(self._parse_maa, self._maa))
        router.add("key-release", "POST", "/key/release", self._acting(self._parse_release, self._release))
        return router

    async def __call__(self, request: WebRequest) -> WebResponse:
        """Answer one request; whatever happens, with one document."""
        found = self._router.find(request)
        if found is None:
            response, name = self._nowhere(request), "none"
        else:
            route, request = found
            name, start = route.name, time.perf_counter()
            try:
                response = await route.handler(request)
            except Exception:
                self._counted(name, "500")
                raise
            self._timed(time.perf_counter() - start, name)
        self._counted(name, str(response.status))
        log.info("%s: %d", name, response.status)
        return response

    def _nowhere(self, request: WebRequest) -> WebResponse:
        if allowed := self._router.methods(request.path):
            refused = _error(405, f"{request.method} is not allowed here, wanted {', '.join(allowed)}")
            return refused.with_headers({"allow": ", ".join(allowed)})
        return _error(404, "no such address; /openapi.json lists them")

    async def _status(self, request: WebRequest) -> WebResponse:
        if self.not_ready:
            return _error(503, f"Status NOT OK: {self.not_ready}")
        return json_response({"message": "Status OK"})

    async def _metrics(self, request: WebRequest) -> WebResponse:
        return WebResponse(200, self.metrics.text(), content_type=CONTENT_TYPE)

    def _acting(
        self,
        parse: Callable[[JsonObject], Wanted],
        act: Callable[[Wanted], Awaitable[JsonObject]],
    ) -> Handler:
        """A handler that parses the body, acts on it, and puts errors into the contract's shape."""

        async def answer(request: WebRequest) -> WebResponse:
            try:
                self.allowed.check_caller(request.peer)
                wanted = parse(load_object(request.body, what="request"))
            except SidecarError as exc:
                return _error(_REFUSED if exc.http_status == _REFUSED else 400, error_words(exc))
            try:
                with self.counted_in():
                    return json_response(await act(wanted))
            except Overloaded as exc:
                return _error(exc.http_status, error_words(exc)).with_headers({"retry-after": "1"})
            except SidecarError as exc:
                log.info("refused: %s", exc)
                return _error(_REFUSED, error_words(exc))

        return answer

    @contextmanager
    def counted_in(self) -> Iterator[None]:
        """Count a request as under way; every protocol's requests together have one bound.

        Raises:
            Overloaded: too many are.
        """
        if self._at_once >= MAX_AT_ONCE:
            raise Overloaded(f"{self._at_once} requests are under way", hint="ask again in a second")
        self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1

    async def _raw(self, wanted: _RawRequest) -> JsonObject:
        raw = await self.guest.source.read_report(report_data_for(wanted.runtime_data))
        return {"report": raw.report.hex()}

    async def _combined(self, wanted: _RawRequest) -> JsonObject:
        evidence = await self.guest.evidence(report_data_for(wanted.runtime_data))
        return {
            "endorsed_tcb": f"{evidence.collateral.tcbm:016x}",
            "endorsements": base64.b64encode(evidence.collateral.chain.to_pem()).decode(),
            "evidence": base64.b64encode(evidence.raw.report).decode(),
            "uvm_endorsements": self.guest.uvm.reference_info_base64,
        }

    async def _maa(self, wanted: _MaaRequest) -> JsonObject:
        token = await attest(self.guest, wanted.authority, wanted.runtime_data)
        return {"token": token.text}

    async def _release(self, wanted: _ReleaseRequest) -> JsonObject:
        released = await self.attester.release(wanted.authority, wanted.vault, wanted.key)
        # The contract: the JWK is a JSON text inside a JSON string.
        return {"key": dump_json(released.jwk()).decode()}

    def _parse_raw(self, body: JsonObject) -> _RawRequest:
        return _RawRequest(self._runtime_data(body))

    def _parse_maa(self, body: JsonObject) -> _MaaRequest:
        authority = self.services.authority(text_member(body, "maa_endpoint", "request"))
        runtime_data = self._runtime_data(body)
        load_object(runtime_data, what="runtime_data")
        return _MaaRequest(authority, runtime_data)

    def _runtime_data(self, body: JsonObject) -> bytes:
        """The decoded runtime data; both base64 alphabets, because the predecessor's clients send either."""
        data = b64_any_decode(text_member(body, "runtime_data", "request"), what="runtime_data")
        if not 0 < len(data) <= MAX_RUNTIME_DATA:
            raise MalformedInput(f"runtime_data: {len(data)} bytes, wanted 1 to {MAX_RUNTIME_DATA}")
        self.allowed.check_runtime_data(data)
        return data

    def _parse_release(self, body: JsonObject) -> _ReleaseRequest:
        authority = self.services.authority(text_member(body, "maa_endpoint", "request"))
        vault = self.services.vault(
            text_member(body, "akv_endpoint", "request"),
            access_token=optional_text(body, "access_token", "request") or "",
        )
        key = parse_key_ref(text_member(body, "kid", "request"))
        self.allowed.check_key(vault.host, key)
        return _ReleaseRequest(authority, vault, key)


@dataclass(frozen=True, slots=True)
class _RawRequest:
    runtime_data: bytes


@dataclass(frozen=True, slots=True)
class _MaaRequest:
    authority: Authority
    runtime_data: bytes


@dataclass(frozen=True, slots=True)
class _ReleaseRequest:
    authority: Authority
    vault: Vault
    key: KeyRef


def refuse(status: int, code: str, message: str) -> WebResponse:
    """What `asgi_app` answers before or instead of this application, in the contract's shape."""
    return _error(status, message)


def error_words(exc: SidecarError) -> str:
    """An error and its hint in one text."""
    return redact(f"{exc} (hint: {exc.hint})" if exc.hint else str(exc))


async def _alive(request: WebRequest) -> WebResponse:
    return json_response({"message": "alive"})


async def _openapi(request: WebRequest) -> WebResponse:
    from sidecar import __version__

    return json_response(document(__version__))


def _by_name(found: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    return {(name,): value for name, value in found.items()}


def _error(status: int, text: str) -> WebResponse:
    return json_response({"error": text}, status)
