"""What a VCEK or VLEK certificate says about its chip: AMD's own X.509 extensions.

Strategy: strict. Each extension known, none missing, none twice, each in the one encoding AMD uses. A leaf of
AMD's carries no other extension, so any other is refused.

Rules: the hardware id is raw bytes in the extension value, not DER (an id that begins with 02 or 04 would be
misread); levels above 0x7f are encoded `02 02 00 xx`.

Spec: AMD 57230 (VCEK certificate and KDS interface), X.509 extensions of the VCEK and VLEK.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509

from sidecar.errors import MalformedInput
from sidecar.snp.certs import VCEK_NAME, VLEK_NAME, common_name
from sidecar.snp.tcb import Tcb, TcbLayout

AMD_EXTENSIONS = "1.3.6.1.4.1.3704.1"
_STRUCT_VERSION, _PRODUCT_NAME, _HWID, _CSP_ID = "1", "2", "4", "5"
# AMD 57230: extension numbers of the eight levels, in the order of the TCB's bytes, by structVersion.
# blSPL 3.1, teeSPL 3.2, snpSPL 3.3, spl4..7 3.4 to 3.7, ucodeSPL 3.8, fmcSPL 3.9 (which replaced spl4).
_LEVELS = {
    0: ("3.1", "3.2", "3.4", "3.5", "3.6", "3.7", "3.3", "3.8"),
    1: ("3.9", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8"),
}
_LAYOUTS = {0: TcbLayout.MILAN, 1: TcbLayout.TURIN}
_HWID_SIZES = {0: 64, 1: 8}


class LeafKind(StrEnum):
    """The two keys that sign reports: of one chip, or of one cloud provider."""

    VCEK = "VCEK"
    VLEK = "VLEK"


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a leaf certificate says; public.

    Attributes:
        struct_version: 0 Milan and Genoa, 1 Turin.
        product_name: as AMD writes it: "Milan-B0", "Genoa", "Turin".
        tcb: the levels the signing key is derived from.
        hwid: VCEK only: chip id, 64 bytes (8 in struct version 1).
        csp_id: VLEK only: the cloud provider's name.
    """

    kind: LeafKind
    struct_version: int
    product_name: str
    tcb: Tcb
    hwid: bytes | None
    csp_id: str | None


def parse_leaf(certificate: x509.Certificate) -> Leaf:
    """Read AMD's extensions of a VCEK or VLEK certificate.

    Raises:
        MalformedInput: not a leaf by name; an extension missing, unknown, or in another encoding.

    Spec: AMD 57230, X.509 extensions of the VCEK and VLEK.
    """
    kind = _kind(certificate)
    values = _amd_extensions(certificate)
    struct_version = _uint8(values, _STRUCT_VERSION)
    if struct_version not in _LEVELS:
        raise MalformedInput(f"leaf certificate: structVersion {struct_version}, wanted 0 or 1")
    levels = _LEVELS[struct_version]
    identity = _HWID if kind is LeafKind.VCEK else _CSP_ID
    wanted = {_STRUCT_VERSION, _PRODUCT_NAME, identity, *levels}
    if values.keys() != wanted:
        odd = ", ".join(f"{AMD_EXTENSIONS}.{x}" for x in sorted(values.keys() ^ wanted))
        raise MalformedInput(f"leaf certificate: extensions missing or not known for a {kind}: {odd}")
    hwid = values.get(_HWID)
    if hwid is not None and len(hwid) != _HWID_SIZES[struct_version]:
        raise MalformedInput(
            f"leaf certificate: hardware id of {len(hwid)} bytes, wanted {_HWID_SIZES[struct_version]}"
        )
    return Leaf(
        kind=kind,
        struct_version=struct_version,
        product_name=_ia5(values, _PRODUCT_NAME),
        tcb=Tcb(bytes(_uint8(values, number) for number in levels), _LAYOUTS[struct_version]),
        hwid=hwid,
        csp_id=_ia5(values, _CSP_ID) if kind is LeafKind.VLEK else None,
    )


def build_leaf_extensions(leaf: Leaf) -> list[x509.UnrecognizedExtension]:
    """The extensions `parse_leaf` reads back; for the software processor and for tests."""
    levels = zip(_LEVELS[leaf.struct_version], leaf.tcb.raw, strict=True)
    values = {_STRUCT_VERSION: _der_uint8(leaf.struct_version), _PRODUCT_NAME: _der_ia5(leaf.product_name)}
    values.update({number: _der_uint8(level) for number, level in levels})
    if leaf.hwid is not None:
        values[_HWID] = leaf.hwid
    if leaf.csp_id is not None:
        values[_CSP_ID] = _der_ia5(leaf.csp_id)
    return [
        x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{AMD_EXTENSIONS}.{number}"), value)
        for number, value in values.items()
    ]


def _kind(certificate: x509.Certificate) -> LeafKind:
    name = common_name(certificate.subject)
    if name == VCEK_NAME:
        return LeafKind.VCEK
    if name == VLEK_NAME:
        return LeafKind.VLEK
    raise MalformedInput(f"leaf certificate: subject {name[:64]!r}, wanted {VCEK_NAME} or {VLEK_NAME}")


def _amd_extensions(certificate: x509.Certificate) -> dict[str, bytes]:
    """AMD's extensions by number; any other extension is foreign to a leaf and refused."""
    values: dict[str, bytes] = {}
    for extension in certificate.extensions:
        prefix, _, number = extension.oid.dotted_string.partition(AMD_EXTENSIONS + ".")
        if prefix or not number or not isinstance(extension.value, x509.UnrecognizedExtension):
            raise MalformedInput(f"leaf certificate: unknown extension {extension.oid.dotted_string}")
        values[number] = extension.value.value
    return values


def _uint8(values: dict[str, bytes], number: str) -> int:
    """DER INTEGER 0..255 in its only encoding."""
    der = values.get(number)
    if der is None:
        raise MalformedInput(f"leaf certificate: extension {AMD_EXTENSIONS}.{number} missing")
    level = der[-1] if der else 0
    if der != _der_uint8(level):
        raise MalformedInput(f"leaf certificate: extension {AMD_EXTENSIONS}.{number} is no INTEGER 0..255")
    return level


def _der_uint8(value: int) -> bytes:
    return bytes((2, 1, value)) if value < 0x80 else bytes((2, 2, 0, value))


def _ia5(values: dict[str, bytes], number: str) -> str:
    """DER IA5String in short form."""
    der = values[number]
    body = der[2:]
    if len(der) < 3 or der[0] != 0x16 or der[1] != len(body) or len(body) > 0x7F or not body.isascii():
        raise MalformedInput(f"leaf certificate: extension {AMD_EXTENSIONS}.{number} is no IA5String")
    return body.decode("ascii")


def _der_ia5(text: str) -> bytes:
    return bytes((0x16, len(text))) + text.encode("ascii")
