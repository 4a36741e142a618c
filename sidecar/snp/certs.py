"""AMD's certificate chain of three, and the JSON Azure wraps it in.

Strategy: bound sizes, read certificates, tell leaf, ASK and ARK apart by name. Who signed whom is left to
`chain`.

Spec: AMD 57230 (VCEK certificate and KDS interface), certificate fields.

Kind: pure
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sidecar.errors import MalformedInput
from sidecar.snp.tcb import ProductLine
from sidecar.strictjson import dump_json, load_object, text_member
from sidecar.x509load import load_der, load_pem

# Real chains are about 6 KB, a THIM answer about 7 KB.
MAX_CHAIN_SIZE = 256 * 1024
MAX_CHAIN_CERTIFICATES = 8
VCEK_NAME = "SEV-VCEK"
VLEK_NAME = "SEV-VLEK"
_THIM = "host certificates"


@dataclass(frozen=True, slots=True)
class CertificateChain:
    """Leaf (VCEK or VLEK), ASK (or ASVK) and ARK; all public, none verified."""

    leaf: x509.Certificate
    ask: x509.Certificate
    ark: x509.Certificate

    def to_pem(self) -> bytes:
        """Leaf, ASK and ARK, in this order: the endorsements that attestation authorities take."""
        return b"".join(c.public_bytes(Encoding.PEM) for c in (self.leaf, self.ask, self.ark))


@dataclass(frozen=True, slots=True)
class Collateral:
    """A chain with what its source said about it.

    Attributes:
        tcbm_text: hexadecimal TCB as the source wrote it; a hint only, never a basis for trust.
        cache_control: seconds the source lets us keep it.
        source: where it came from, for logs.
    """

    chain: CertificateChain
    tcbm_text: str
    cache_control: int = 0
    source: str = ""

    @property
    def tcbm(self) -> int:
        """REPORTED_TCB that the source claims these certificates are for, as a number."""
        return int(self.tcbm_text, 16)


def parse_certificate(data: bytes) -> x509.Certificate:
    """Read one certificate, PEM or DER, at most 256 KiB.

    Raises:
        MalformedInput: it does not parse.
    """
    found = _load(data) if len(data) <= MAX_CHAIN_SIZE else []
    if len(found) != 1:
        raise MalformedInput(f"certificate: {len(found)} readable in {len(data)} bytes, wanted 1")
    return found[0]


def parse_certificates_pem(data: bytes) -> list[x509.Certificate]:
    """Read a PEM bundle in its order, at most 256 KiB and 8 certificates.

    Raises:
        MalformedInput: it does not parse, is too large, or is empty.
    """
    if len(data) > MAX_CHAIN_SIZE:
        raise MalformedInput(f"certificates: {len(data)} bytes, wanted at most {MAX_CHAIN_SIZE}")
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise MalformedInput("certificates: no PEM block found")
    found = _load(data)
    if len(found) > MAX_CHAIN_CERTIFICATES:
        raise MalformedInput(f"certificates: {len(found)}, wanted at most {MAX_CHAIN_CERTIFICATES}")
    return found


def parse_chain_pem(data: bytes) -> CertificateChain:
    """Read a PEM bundle of exactly leaf, ASK and ARK, in any order.

    Raises:
        MalformedInput: another number of certificates, or they are not one of each.
    """
    return assemble_chain(parse_certificates_pem(data))


def assemble_chain(certificates: Iterable[x509.Certificate]) -> CertificateChain:
    """Tell leaf, ASK and ARK apart by their names; who signed whom is not looked at here.

    Raises:
        MalformedInput: a kind is missing or there twice.
    """
    places: dict[str, x509.Certificate] = {}
    for certificate in certificates:
        place = _place(certificate)
        if place in places:
            raise MalformedInput(f"certificate chain: two certificates for the place of the {place}")
        places[place] = certificate
    missing = [place for place in ("leaf", "ASK", "ARK") if place not in places]
    if missing:
        raise MalformedInput(f"certificate chain: {' and '.join(missing)} missing")
    return CertificateChain(places["leaf"], places["ASK"], places["ARK"])


def parse_thim(data: bytes, *, source: str = "") -> Collateral:
    """Read Azure's certificate JSON: the answer of THIM, and the decoded `host-amd-cert-base64` file.

    Args:
        data: JSON of at most 256 KiB, public, from an untrusted party.

    Raises:
        MalformedInput: not that JSON, or the certificates in it do not parse. Keys we do not know are
            ignored; the service adds some from time to time.

    Spec: Azure documentation, Trusted Hardware Identity Management, AMD certificates; keys `vcekCert`,
        `certificateChain`, `tcbm`, `cacheControl`, all strings.
    """
    fields = load_object(data, what=_THIM, max_bytes=MAX_CHAIN_SIZE)
    vcek, chain, tcbm = (text_member(fields, key, _THIM) for key in ("vcekCert", "certificateChain", "tcbm"))
    cache_control = text_member(fields, "cacheControl", _THIM) if "cacheControl" in fields else "0"
    # Seen without leading zeros and in either case.
    if not re.fullmatch(r"[0-9A-Fa-f]{1,16}", tcbm):
        raise MalformedInput(f"{_THIM}: tcbm {tcbm[:40]!r}, wanted up to 16 hexadecimal digits")
    if not re.fullmatch(r"[0-9]{1,9}", cache_control):
        raise MalformedInput(f"{_THIM}: cacheControl {cache_control[:40]!r}, wanted seconds")
    bundle = f"{vcek}\n{chain}".encode("ascii", "replace")
    return Collateral(parse_chain_pem(bundle), tcbm, int(cache_control), source)


def build_thim(collateral: Collateral) -> bytes:
    """The JSON that `parse_thim` reads."""
    chain = collateral.chain
    return dump_json(
        {
            "vcekCert": chain.leaf.public_bytes(Encoding.PEM).decode(),
            "tcbm": collateral.tcbm_text,
            "certificateChain": b"".join(
                c.public_bytes(Encoding.PEM) for c in (chain.ask, chain.ark)
            ).decode(),
            "cacheControl": str(collateral.cache_control),
        }
    )


def decode_host_certificates(text: bytes, *, source: str = "") -> Collateral:
    """Read `host-amd-cert-base64` or UVM_HOST_AMD_CERTIFICATE: base64 of the THIM JSON.

    Raises:
        MalformedInput: not base64, or not that JSON.
    """
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except ValueError as exc:
        raise MalformedInput(f"{_THIM}: not base64") from exc
    return parse_thim(data, source=source)


def common_name(name: x509.Name) -> str:
    """The one common name of a subject or issuer, or "" when there is none or more than one."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def line_of_name(text: str) -> ProductLine | None:
    """Product line that a product name or a CA's common name ends in or starts with."""
    match = re.search(r"\b(Milan|Genoa|Turin)\b", text)
    return ProductLine(match.group(1)) if match else None


def _place(certificate: x509.Certificate) -> str:
    if common_name(certificate.subject) in (VCEK_NAME, VLEK_NAME):
        return "leaf"
    return "ARK" if certificate.subject == certificate.issuer else "ASK"


def _load(data: bytes) -> list[x509.Certificate]:
    return load_pem(data) if b"-----BEGIN CERTIFICATE-----" in data else [load_der(data)]
