"""AMD's revocation lists: optional, and binding once given.

Strategy: the caller decides whether a list is needed, which keeps verification independent of AMD being
reachable; a list that was given must be the ARK's, signed, current, and must not name an intermediate.
Leaves all carry serial number 0 and cannot be revoked this way; their TCB is what retires them.

Spec: AMD 57230 (KDS interface), certificate revocation list; RFC 5280 section 5.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import SignatureAlgorithmOID

from sidecar.errors import MalformedInput
from sidecar.snp.certs import CertificateChain, common_name
from sidecar.snp.chain import PSS
from sidecar.snp.check import Refused
from sidecar.snp.tcb import ProductLine
from sidecar.x509load import load_crl

# AMD's lists are empty today, about 1 KB.
MAX_CRL_SIZE = 256 * 1024


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list that parses; nothing about it has been verified."""

    crl: x509.CertificateRevocationList


def parse_revocation_list(data: bytes) -> RevocationList:
    """Read a list, DER or PEM, at most 256 KiB.

    Raises:
        MalformedInput: it does not parse.
    """
    if len(data) > MAX_CRL_SIZE:
        raise MalformedInput(f"revocation list: {len(data)} bytes, wanted at most {MAX_CRL_SIZE}")
    return RevocationList(load_crl(data))


def check_revocation(
    chain: CertificateChain, line: ProductLine | None, lists: Sequence[RevocationList], at: datetime
) -> str:
    """Hold the chain's intermediate and root against the list of its own root.

    Returns:
        What was found, for the reader.

    Raises:
        Refused: no list of this root, not signed by it, not current, or a certificate is listed.
    """
    own = [entry.crl for entry in lists if entry.crl.issuer == chain.ark.subject]
    if line is None or len(own) != 1:
        raise Refused(f"{len(own)} lists of {common_name(chain.ark.subject)[:64]!r}, wanted 1")
    crl = own[0]
    _require_signature(crl, chain.ark)
    first, last = crl.last_update_utc, crl.next_update_utc
    if last is None or not first <= at <= last:
        until = f"{last:%Y-%m-%d}" if last else "no date"
        raise Refused(f"the list is valid {first:%Y-%m-%d} to {until}, wanted {at:%Y-%m-%d}")
    for certificate in (chain.ask, chain.ark):
        if crl.get_revoked_certificate_by_serial_number(certificate.serial_number):
            raise Refused(f"{common_name(certificate.subject)} is revoked")
    return f"not on the list of {first:%Y-%m-%d}"


def _require_signature(crl: x509.CertificateRevocationList, ark: x509.Certificate) -> None:
    if crl.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
        raise Refused(
            f"the list is signed with {crl.signature_algorithm_oid.dotted_string}, wanted RSASSA-PSS"
        )
    try:
        key = ark.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise Refused("the root's key is not RSA")
        key.verify(crl.signature, crl.tbs_certlist_bytes, PSS, SHA384())
    except InvalidSignature:
        raise Refused("the list is not signed by the root") from None
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise MalformedInput(f"root key: does not parse: {exc}") from exc
