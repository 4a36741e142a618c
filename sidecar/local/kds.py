"""AMD's key service and Azure's certificate cache, for the software processor only.

Strategy: certificates are issued for any TCB of the one chip, as AMD's service does for real ones.

Spec: AMD 57230, VCEK interface of the key service; Azure certificate cache, as the predecessor calls it.

Kind: composition
"""

from __future__ import annotations

import trio
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.errors import MalformedInput
from sidecar.local.faults import FaultScript
from sidecar.local.refusal import Refusal
from sidecar.local.service import Service
from sidecar.snp.software import LINE, SoftwareProcessor
from sidecar.snp.tcb import Tcb, TcbLayout
from sidecar.web import Router, WebRequest, WebResponse

DER_TYPE = "application/pkix-cert"
PEM_TYPE = "application/x-pem-file"
# Query names of the key service and what this project calls the components.
_COMPONENTS = {"blSPL": "boot_loader", "teeSPL": "tee", "snpSPL": "snp", "ucodeSPL": "microcode"}


class KeyService:
    """Both certificate services of one software processor."""

    def __init__(self, processor: SoftwareProcessor) -> None:
        self._processor = processor

    def service(self, faults: FaultScript) -> Service:
        """The routes as a service that obeys a fault script."""
        router = Router()
        router.add("chain", "GET", "/vcek/v1/{line}/cert_chain", self._chain)
        router.add("vcek", "GET", "/vcek/v1/{line}/{chip}", self._vcek)
        router.add("cache", "GET", "/SevSnpVM/certificates/{chip}/{tcb}", self._cache)
        return Service("kds", router, faults, _render)

    async def _chain(self, request: WebRequest) -> WebResponse:
        self._check_line(request)
        pem = b"".join(c.public_bytes(Encoding.PEM) for c in (self._processor.ask, self._processor.ark))
        return WebResponse(200, pem, content_type=PEM_TYPE)

    async def _vcek(self, request: WebRequest) -> WebResponse:
        self._check_line(request)
        self._check_chip(request)
        levels = {ours: _level(request.query.get(theirs), theirs) for theirs, ours in _COMPONENTS.items()}
        tcb = Tcb.of(TcbLayout.MILAN, **levels)
        chain = await trio.to_thread.run_sync(self._processor.chain_for, tcb)
        return WebResponse(200, chain.leaf.public_bytes(Encoding.DER), content_type=DER_TYPE)

    async def _cache(self, request: WebRequest) -> WebResponse:
        self._check_chip(request)
        text = request.parameters["tcb"]
        try:
            raw = int(text, 16).to_bytes(8, "little")
        except (ValueError, OverflowError):
            raise MalformedInput(f"tcb {text[:32]!r}: wanted up to 16 hexadecimal digits") from None
        chain = await trio.to_thread.run_sync(self._processor.chain_for, Tcb(raw, TcbLayout.MILAN))
        return WebResponse(200, chain.to_pem(), content_type=PEM_TYPE)

    def _check_line(self, request: WebRequest) -> None:
        if request.parameters["line"].lower() != LINE.lower():
            raise Refusal(404, "NotFound", f"this key service knows {LINE} only")

    def _check_chip(self, request: WebRequest) -> None:
        if request.parameters["chip"].lower() != self._processor.chip_id.hex():
            raise Refusal(404, "NotFound", "this key service knows one chip only, the software processor")


def _level(text: str | None, name: str) -> int:
    if text is None or not text.isascii() or not text.isdigit() or int(text[:4]) > 255:
        raise MalformedInput(f"{name} is {str(text)[:16]!r}, wanted 0 to 255")
    return int(text)


def _render(refusal: Refusal) -> WebResponse:
    return WebResponse(refusal.status, f"{refusal.message}\n".encode(), refusal.headers, "text/plain")
