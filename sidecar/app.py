"""The local HTTP API: request value to response value, no sockets.

Routes, bodies and statuses are the predecessor's contract: 400 for a request that is wrong, 403 where
attestation or release did not succeed, 500 for a defect of ours; an error is `{"error": text}`, and every
answer is one JSON document.

Kind: composition
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import trio

from sidecar.akv import KeyRef, parse_key_ref
from sidecar.collateral import roots_for
from sidecar.errors import MalformedInput, SidecarError
from sidecar.jose import b64_any_decode
from sidecar.maa import report_data_for
from sidecar.release import Guest, attest, release_key
from sidecar.services import Authority, Services, Vault
from sidecar.snp.verify import verify_evidence
from sidecar.strictjson import JsonObject, dump_json, load_object, optional_text, text_member
from sidecar.web import Handler, Router, WebRequest, WebResponse, json_response
from sidecar.wrapping import WrappingKey

log = logging.getLogger(__name__)

MAX_RUNTIME_DATA = 64 << 10
_REFUSED = 403
Wanted = TypeVar("Wanted")


class WrappingKeys:
    """Wrapping keys made ahead, one for each release; a request waits for one only under a burst.

    Attributes:
        ahead: how many are kept ready.
    """

    def __init__(self, ahead: int = 4) -> None:
        self._send, self._receive = trio.open_memory_channel[WrappingKey](ahead)

    async def keep_making(self) -> None:
        """Make keys for ever; run it in a nursery."""
        while True:
            await self._send.send(await trio.to_thread.run_sync(WrappingKey.generate))

    async def take(self) -> WrappingKey:
        """The next key; nobody else gets it."""
        return await self._receive.receive()


@dataclass(slots=True)
class App:
    """The API over one guest and its services."""

    guest: Guest
    services: Services
    keys: WrappingKeys
    not_ready: str = "starting"

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
            self.not_ready = str(exc)
            log.error("not ready: %s", exc)
        else:
            self.not_ready = ""

    def router(self) -> Router:
        """All routes."""
        router = Router()
        router.add("status", "GET", "/status", self._status)
        router.add("healthz", "GET", "/healthz", _alive)
        router.add("readyz", "GET", "/readyz", self._status)
        router.add("attest-raw", "POST", "/attest/raw", _answering(_RawRequest.parse, self._raw))
        combined = _answering(_RawRequest.parse, self._combined)
        router.add("attest-combined", "POST", "/attest/combined", combined)
        router.add("attest-maa", "POST", "/attest/maa", _answering(self._parse_maa, self._maa))
        router.add("key-release", "POST", "/key/release", _answering(self._parse_release, self._release))
        return router

    async def __call__(self, request: WebRequest) -> WebResponse:
        """Answer one request; whatever happens, with one JSON document."""
        router = self.router()
        found = router.find(request)
        if found is None:
            allowed = router.methods(request.path)
            if allowed:
                return _error(405, f"{request.method} is not allowed here").with_headers(
                    {"allow": ", ".join(allowed)}
                )
            return _error(404, "no such address; see `sidecar serve --help`")
        route, request = found
        response = await route.handler(request)
        log.info("%s: %d", route.name, response.status)
        return response

    async def _status(self, request: WebRequest) -> WebResponse:
        if self.not_ready:
            return _error(503, f"Status NOT OK: {self.not_ready}")
        return json_response({"message": "Status OK"})

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
        wrapping_key = await self.keys.take()
        released = await release_key(
            self.guest, wanted.authority, wanted.vault, wanted.key, wrapping_key=wrapping_key
        )
        # The contract: the JWK is a JSON text inside a JSON string.
        return {"key": dump_json(released.jwk()).decode()}

    def _parse_maa(self, body: JsonObject) -> _MaaRequest:
        authority = self.services.authority(text_member(body, "maa_endpoint", "request"))
        runtime_data = _runtime_data(body)
        load_object(runtime_data, what="runtime_data")
        return _MaaRequest(authority, runtime_data)

    def _parse_release(self, body: JsonObject) -> _ReleaseRequest:
        return _ReleaseRequest(
            self.services.authority(text_member(body, "maa_endpoint", "request")),
            self.services.vault(
                text_member(body, "akv_endpoint", "request"),
                access_token=optional_text(body, "access_token", "request") or "",
            ),
            parse_key_ref(text_member(body, "kid", "request")),
        )


@dataclass(frozen=True, slots=True)
class _RawRequest:
    runtime_data: bytes

    @classmethod
    def parse(cls, body: JsonObject) -> _RawRequest:
        return cls(_runtime_data(body))


@dataclass(frozen=True, slots=True)
class _MaaRequest:
    authority: Authority
    runtime_data: bytes


@dataclass(frozen=True, slots=True)
class _ReleaseRequest:
    authority: Authority
    vault: Vault
    key: KeyRef


def _runtime_data(body: JsonObject) -> bytes:
    """The decoded runtime data; both base64 alphabets, because the predecessor's clients send either."""
    data = b64_any_decode(text_member(body, "runtime_data", "request"), what="runtime_data")
    if not 0 < len(data) <= MAX_RUNTIME_DATA:
        raise MalformedInput(f"runtime_data: {len(data)} bytes, wanted 1 to {MAX_RUNTIME_DATA}")
    return data


def _answering(
    parse: Callable[[JsonObject], Wanted], act: Callable[[Wanted], Awaitable[JsonObject]]
) -> Handler:
    """A handler that parses the body, acts on it, and puts errors into the contract's shape."""

    async def answer(request: WebRequest) -> WebResponse:
        try:
            wanted = parse(load_object(request.body, what="request"))
        except SidecarError as exc:
            return _error(_REFUSED if exc.http_status == _REFUSED else 400, _words(exc))
        try:
            return json_response(await act(wanted))
        except SidecarError as exc:
            log.info("refused: %s", exc)
            return _error(_REFUSED, _words(exc))

    return answer


def refuse(status: int, code: str, message: str) -> WebResponse:
    """What `asgi_app` answers before or instead of this application, in the contract's shape."""
    return _error(status, message)


def _words(exc: SidecarError) -> str:
    return f"{exc} (hint: {exc.hint})" if exc.hint else str(exc)


async def _alive(request: WebRequest) -> WebResponse:
    return json_response({"message": "alive"})


def _error(status: int, text: str) -> WebResponse:
    return json_response({"error": text}, status)
