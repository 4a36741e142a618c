"""The host's certificate table: what an extended report and configfs-tsm's `auxblob` carry.

Strategy: read the headers up to the empty one that ends them, then cut the pieces out. Contents are kept as
bytes; whoever wants a certificate asks by name.

Rules: the host writes this table, so every offset and length is checked without wrap-around; a table without
its end, and a GUID that appears twice, are refused; GUIDs we do not know are kept.

Spec: AMD 56421 (GHCB), SNP extended guest request, certificate table and its GUIDs.

Kind: pure
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.errors import MalformedInput
from sidecar.snp.certs import CertificateChain, common_name, parse_certificate
from sidecar.snp.leaf import LeafKind

# The kernel takes at most 16 KiB from the host, newer ones 20 KiB; auxblob has a page-sized limit of its own.
MAX_TABLE_SIZE = 256 * 1024
_ENTRY = struct.Struct("<16sII")

VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd")
VLEK = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1")
ASK = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")
ARK = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")
NAMES = MappingProxyType({VCEK: "VCEK", VLEK: "VLEK", ASK: "ASK", ARK: "ARK"})
_LEAVES = {LeafKind.VCEK: VCEK, LeafKind.VLEK: VLEK}


@dataclass(frozen=True, slots=True)
class CertificateTable:
    """Contents by GUID, in table order; public, from the untrusted host."""

    entries: Mapping[UUID, bytes]

    def leaf(self, kind: LeafKind) -> x509.Certificate | None:
        """The leaf of this kind, or None when the host sent none.

        Raises:
            MalformedInput: it is there and does not parse.
        """
        return self._certificate(_LEAVES[kind])

    def authorities(self) -> tuple[x509.Certificate, x509.Certificate] | None:
        """ASK (or ASVK) and ARK, or None unless the host sent both.

        Raises:
            MalformedInput: one of them does not parse.
        """
        ask, ark = self._certificate(ASK), self._certificate(ARK)
        return (ask, ark) if ask and ark else None

    def chain(self, kind: LeafKind) -> CertificateChain | None:
        """The whole chain for a leaf of this kind, or None when a piece is missing.

        Raises:
            MalformedInput: a piece does not parse.
        """
        leaf, authorities = self.leaf(kind), self.authorities()
        return CertificateChain(leaf, *authorities) if leaf and authorities else None

    def _certificate(self, guid: UUID) -> x509.Certificate | None:
        data = self.entries.get(guid)
        if not data:
            return None
        try:
            return parse_certificate(data)
        except MalformedInput as exc:
            raise MalformedInput(f"certificate table: {NAMES[guid]}: {exc}") from exc


def parse_certificate_table(data: bytes) -> CertificateTable:
    """Read a table; nothing at all is an empty table.

    Args:
        data: at most 256 KiB, public, from the untrusted host; what follows the last piece is padding.

    Raises:
        MalformedInput: no end, a piece outside the data or inside the headers, a GUID twice.

    Spec: AMD 56421, certificate table.
    """
    if len(data) > MAX_TABLE_SIZE:
        raise MalformedInput(f"certificate table: {len(data)} bytes, wanted at most {MAX_TABLE_SIZE}")
    entries: dict[UUID, bytes] = {}
    if not data:
        return CertificateTable(MappingProxyType(entries))
    headers = _read_headers(data)
    start = _ENTRY.size * (len(headers) + 1)
    for guid, offset, length in headers:
        if offset < start or offset + length > len(data):
            raise MalformedInput(
                f"certificate table: {guid}: bytes {offset} to {offset + length}, "
                f"wanted within {start} to {len(data)}"
            )
        if guid in entries:
            raise MalformedInput(f"certificate table: {guid} appears twice")
        entries[guid] = data[offset : offset + length]
    return CertificateTable(MappingProxyType(entries))


def build_certificate_table(entries: Mapping[UUID, bytes]) -> bytes:
    """Write a table in the form `parse_certificate_table` reads, without padding."""
    offset = _ENTRY.size * (len(entries) + 1)
    headers, bodies = [], []
    for guid, body in entries.items():
        headers.append(_ENTRY.pack(guid.bytes, offset, len(body)))
        bodies.append(body)
        offset += len(body)
    return b"".join([*headers, bytes(_ENTRY.size), *bodies])


def table_of(chain: CertificateChain) -> CertificateTable:
    """The table a host would send for this chain."""
    leaf = VLEK if common_name(chain.leaf.subject) == "SEV-VLEK" else VCEK
    pieces = {leaf: chain.leaf, ASK: chain.ask, ARK: chain.ark}
    return CertificateTable({guid: cert.public_bytes(Encoding.DER) for guid, cert in pieces.items()})


def _read_headers(data: bytes) -> list[tuple[UUID, int, int]]:
    headers: list[tuple[UUID, int, int]] = []
    for position in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
        guid, offset, length = _ENTRY.unpack_from(data, position)
        if not any(guid):
            if offset or length:
                raise MalformedInput("certificate table: the last entry is not empty")
            return headers
        headers.append((UUID(bytes=guid), offset, length))
    raise MalformedInput("certificate table: no empty entry at its end")
