"""Places that certificates for a report can come from, behind one seam; the local ones are here.

Strategy: a source is asked for one report's certificates and returns what it has. It judges nothing; whoever
asks holds the answer against roots and report (see `certstore`), so a lying source costs a try, not trust.

Rules: `NotHere` means "not this source, ask the next" and is no fault of anyone's.

Kind: composition
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio
from cryptography import x509

from sidecar.errors import MalformedInput
from sidecar.snp.certcache import CertificateCache
from sidecar.snp.certs import CertificateChain, Collateral, parse_certificate, parse_certificates_pem
from sidecar.snp.certtable import CertificateTable
from sidecar.snp.endpoints import lines_of
from sidecar.snp.leaf import LeafKind, parse_leaf
from sidecar.snp.report import Report
from sidecar.snp.software import SoftwareProcessor

MAX_FOLDER_FILES = 256


class NotHere(Exception):
    """This source has nothing for this report."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What certificates are wanted for."""

    report: Report
    kind: LeafKind
    table: CertificateTable

    @property
    def has_chip_id(self) -> bool:
        """False when the host masked it: then no service can find the certificate."""
        return any(self.report.chip_id)


class CertificateSource(Protocol):
    """One place to ask."""

    @property
    def name(self) -> str: ...

    async def fetch(self, wanted: Wanted) -> Collateral:
        """Certificates for a report, unverified.

        Raises:
            NotHere: nothing here. MalformedInput: something, but unreadable. ServiceError: no usable answer.
        """
        ...


class TableSource:
    """The table that came with the report."""

    name = "certificate table"

    async def fetch(self, wanted: Wanted) -> Collateral:
        """See `CertificateSource`."""
        chain = wanted.table.chain(wanted.kind)
        if chain is None:
            raise NotHere("no whole chain in it")
        return collateral_of(chain)


class GivenSource:
    """Certificates handed over at start: the UVM's file or variable."""

    def __init__(self, collateral: Collateral) -> None:
        self.name = collateral.source or "given certificates"
        self._collateral = collateral

    async def fetch(self, wanted: Wanted) -> Collateral:
        """See `CertificateSource`."""
        return self._collateral


class CacheSource:
    """The cache on disk."""

    name = "certificate cache"

    def __init__(self, cache: CertificateCache) -> None:
        self._cache = cache

    async def fetch(self, wanted: Wanted) -> Collateral:
        """See `CertificateSource`."""
        for line in lines_of(wanted.report):
            chain = await trio.to_thread.run_sync(self._cache.read, wanted.report, line)
            if chain:
                return collateral_of(chain)
        raise NotHere("nothing kept for this chip and TCB")


class FolderSource:
    """A folder of certificate files, PEM or DER, for machines without a network."""

    def __init__(self, folder: Path) -> None:
        self.name = f"folder {folder}"
        self._folder = folder

    async def fetch(self, wanted: Wanted) -> Collateral:
        """See `CertificateSource`."""
        return await trio.to_thread.run_sync(self._find, wanted)

    def _find(self, wanted: Wanted) -> Collateral:
        found = self._load()
        for leaf in found:
            if not is_for(leaf, wanted):
                continue
            ask = next((c for c in found if c.subject == leaf.issuer), None)
            ark = next((c for c in found if ask and c.subject == ask.issuer == c.issuer), None)
            if ask and ark:
                return collateral_of(CertificateChain(leaf, ask, ark))
        raise NotHere(f"no chain for this chip and TCB among {len(found)} certificates")

    def _load(self) -> list[x509.Certificate]:
        found: list[x509.Certificate] = []
        try:
            files = sorted(path for path in self._folder.iterdir() if path.is_file())
            for path in files[:MAX_FOLDER_FILES]:
                data = path.read_bytes()
                try:
                    found += (
                        parse_certificates_pem(data) if b"-----BEGIN" in data else [parse_certificate(data)]
                    )
                except MalformedInput:
                    continue  # A folder may hold other things; what is missing is said by `_find`.
        except OSError as exc:
            raise NotHere(f"cannot be read: {exc.strerror}") from exc
        return found


class ProcessorSource:
    """The software processor itself."""

    name = "software processor"

    def __init__(self, processor: SoftwareProcessor) -> None:
        self._processor = processor

    async def fetch(self, wanted: Wanted) -> Collateral:
        """See `CertificateSource`."""
        return collateral_of(
            await trio.to_thread.run_sync(self._processor.chain_for, wanted.report.reported_tcb)
        )


def collateral_of(chain: CertificateChain) -> Collateral:
    """A chain with the TCB its leaf names; a leaf that does not parse is found out later, by its check."""
    try:
        text = parse_leaf(chain.leaf).tcb.hex
    except MalformedInput:
        text = "0"
    return Collateral(chain, text)


def is_for(leaf: x509.Certificate, wanted: Wanted) -> bool:
    """The leaf is of the wanted kind, for the report's chip and TCB; nothing is verified."""
    try:
        content = parse_leaf(leaf)
    except MalformedInput:
        return False
    chip = content.hwid is None or content.hwid.ljust(64, b"\0") == wanted.report.chip_id
    return content.kind is wanted.kind and content.tcb.raw == wanted.report.reported_tcb.raw and chip
