"""Certificates that verify a given report, found once and remembered.

Strategy: ask the sources in order and return the first answer that verifies for the report at hand; remember
by product line, chip and TCB.

Rules: an answer counts when its chain ends at a root of ours, is valid now, and its leaf has the report's TCB
and chip id; what a source says about itself (`tcbm`) decides nothing. What was remembered or cached is judged
anew each time. Requests for the same certificates wait for one fetch and share its failure. A source that
asked for a pause is left alone until it is over.

Kind: composition
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import trio

from sidecar.certservices import AskLater
from sidecar.certsources import CacheSource, CertificateSource, NotHere, Wanted
from sidecar.errors import MalformedInput, ServiceError, SignatureRejected, VerificationFailed
from sidecar.snp.certcache import CertificateCache
from sidecar.snp.certs import Collateral
from sidecar.snp.certtable import parse_certificate_table
from sidecar.snp.leaf import Leaf, LeafKind
from sidecar.snp.report import Report, SigningKey
from sidecar.snp.roots import Roots
from sidecar.snp.tcb import ProductLine
from sidecar.snp.verify import verify_chain

SOURCE_DEADLINE = 30.0
# Left alone for this long after a refusal without Retry-After; AMD limits a question to one in ten seconds.
DEFAULT_PAUSE = 10.0
MAX_PAUSE = 600.0
MAX_REMEMBERED = 32

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Flight:
    """One question to the sources, and who waits for it."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    failure: ServiceError | None = None
    failed_at: float = 0.0


class CertificateStore:
    """Finds and remembers certificates; one per process.

    Args:
        sources: asked in order. cache: told about what the sources found. now: the time, with a zone.
    """

    def __init__(
        self,
        sources: Sequence[CertificateSource],
        *,
        roots: Roots,
        cache: CertificateCache | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._sources = list(sources)
        self._roots = roots
        self._cache = cache
        self._now = now
        self._remembered: OrderedDict[bytes, Collateral] = OrderedDict()
        self._flights: dict[bytes, _Flight] = {}
        self._pauses: dict[str, float] = {}

    async def certificates_for(self, report: Report, table: bytes = b"") -> Collateral:
        """Certificates that verify this report.

        Args:
            report: parsed; only its kind of key, chip id and REPORTED_TCB matter.
            table: certificate table that came with it, b"" for none.

        Raises:
            ServiceError: no source had them; the message says what each one said.
            SignatureRejected: the report was signed by no key that has certificates.
        """
        wanted = _wanted(report, table)
        key = _key(report)
        flight = self._flights.setdefault(key, _Flight())
        asked = trio.current_time()
        try:
            async with flight.lock:
                found = self._recall(key, report)
                if found is None and flight.failure and flight.failed_at >= asked:
                    # Others waited while the sources were asked for them as well.
                    raise ServiceError(str(flight.failure), hint=flight.failure.hint)
                return found or await self._ask_all(key, wanted, flight)
        finally:
            if not flight.lock.locked():
                self._flights.pop(key, None)

    def _recall(self, key: bytes, report: Report) -> Collateral | None:
        found = self._remembered.get(key)
        if found is None:
            return None
        try:
            self._judge(found, report)
        except (VerificationFailed, MalformedInput):
            del self._remembered[key]
            return None
        return found

    async def _ask_all(self, key: bytes, wanted: Wanted, flight: _Flight) -> Collateral:
        answers: list[str] = []
        for source in self._sources:
            try:
                found = await self._ask(source, wanted)
                line = self._judge(found, wanted.report)
            except (NotHere, ServiceError, MalformedInput, VerificationFailed) as exc:
                answers.append(f"{source.name}: {exc}")
                continue
            logger.info("certificates for TCB %s from %s", wanted.report.reported_tcb.hex, source.name)
            await self._remember(key, source, wanted, line, found)
            return replace(found, source=source.name)
        flight.failure = ServiceError(
            f"no certificates for TCB {wanted.report.reported_tcb.hex}: "
            + "; ".join(answers or ["no sources"]),
            hint="the host's firmware may be newer than its certificates; try again, or name another source",
        )
        flight.failed_at = trio.current_time()
        raise flight.failure

    async def _ask(self, source: CertificateSource, wanted: Wanted) -> Collateral:
        pause = self._pauses.get(source.name, 0.0) - trio.current_time()
        if pause > 0:
            raise NotHere(f"asked for a pause, {pause:.0f} seconds left")
        try:
            with trio.fail_after(SOURCE_DEADLINE):
                return await source.fetch(wanted)
        except trio.TooSlowError:
            raise ServiceError(f"no answer within {SOURCE_DEADLINE:.0f} seconds") from None
        except AskLater as exc:
            pause = min(DEFAULT_PAUSE if exc.seconds is None else exc.seconds, MAX_PAUSE)
            self._pauses[source.name] = trio.current_time() + pause
            raise

    def _judge(self, found: Collateral, report: Report) -> ProductLine:
        """Product line of a chain that verifies for this report; `VerificationFailed` for any other."""
        leaf = verify_chain(found.chain, roots=self._roots, at=self._now())
        anchor = self._roots.find(found.chain.ark)
        if anchor is None or (report.product_line or anchor.line) is not anchor.line:
            raise VerificationFailed("the chain is another product line's")
        _require_for(leaf, report)
        return anchor.line

    async def _remember(
        self, key: bytes, source: CertificateSource, wanted: Wanted, line: ProductLine, found: Collateral
    ) -> None:
        self._remembered[key] = replace(found, source=source.name)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        # A VLEK is its provider's for every chip and TCB of theirs; it comes with each report anyway.
        if (
            self._cache
            and wanted.kind is LeafKind.VCEK
            and wanted.has_chip_id
            and source.name != CacheSource.name
        ):
            await trio.to_thread.run_sync(self._cache.write, wanted.report, line, found.chain)


def _wanted(report: Report, table: bytes) -> Wanted:
    kinds: dict[int, LeafKind] = {SigningKey.VCEK: LeafKind.VCEK, SigningKey.VLEK: LeafKind.VLEK}
    kind = kinds.get(report.signing_key)
    if kind is None:
        raise SignatureRejected(f"signing key: {report.signing_key:d}, wanted 0 (VCEK) or 1 (VLEK)")
    try:
        return Wanted(report, kind, parse_certificate_table(table))
    except MalformedInput as exc:
        # The host wrote it; other sources may still do.
        logger.info("certificate table of the report is of no use: %s", exc)
        return Wanted(report, kind, parse_certificate_table(b""))


def _key(report: Report) -> bytes:
    line = (report.product_line or "").encode()
    return line + bytes((report.signing_key,)) + report.chip_id + report.reported_tcb.raw


def _require_for(leaf: Leaf, report: Report) -> None:
    if leaf.kind != SigningKey(report.signing_key).name:
        raise VerificationFailed(f"the leaf is a {leaf.kind}, wanted a {SigningKey(report.signing_key).name}")
    if leaf.tcb.raw != report.reported_tcb.raw:
        raise VerificationFailed(f"the leaf is for TCB {leaf.tcb.hex}, wanted {report.reported_tcb.hex}")
    if leaf.hwid is not None and any(report.chip_id) and leaf.hwid.ljust(64, b"\0") != report.chip_id:
        raise VerificationFailed(
            f"the leaf is chip {leaf.hwid.hex()[:16]}'s, wanted {report.chip_id.hex()[:16]}'s"
        )
