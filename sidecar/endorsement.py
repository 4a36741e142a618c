"""The utility VM's endorsement: Microsoft's statement that a launch measurement is a UVM of theirs.

Strategy: COSE_Sign1 with a did:x509 issuer in its protected header; the issuer is resolved against the chain
beside it, the signature checked with the key found; then issuer, feed and SVN are held against pinned ones,
and the measurement against the report's.

Rules: the signer's certificates live for a year and endorsements longer, so the chain is judged at the
signing time in the protected header; without one, at the caller's time. That time is the signer's own word,
covered by the signature; a third party's timestamp in the unprotected header is not looked at. SVNs compare
as numbers: as text, "100" is below "22". `x-ms-sevsnpvm-guestsvn` is not the report's GUEST_SVN.

Spec: CCF documentation, UVM endorsements; did:x509 method specification; RFC 9052.

Kind: pure
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sidecar.cbor import Tagged, Value
from sidecar.cose import CONTENT_TYPE, Sign1, certificates_of, parse_sign1, verify_sign1
from sidecar.didx509 import parse_did, resolve
from sidecar.errors import EndorsementRejected, MalformedInput
from sidecar.strictjson import load_object, text_member

_WHAT = "UVM endorsement"
_SVN = "x-ms-sevsnpvm-guestsvn"
_MEASUREMENT = "x-ms-sevsnpvm-launchmeasurement"
# RFC 8949 section 3.4.2: seconds since 1970.
_TAG_EPOCH = 1
_MICROSOFT = "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1"


@dataclass(frozen=True, slots=True)
class UvmIssuer:
    """Who may endorse.

    Attributes:
        did: did:x509 text, compared whole. feed: product. minimum_svn: lowest security version accepted.
    """

    did: str
    feed: str
    minimum_svn: int = 0


# Confidential container instances, and confidential containers on AKS.
AZURE_UVM_ISSUERS = (
    UvmIssuer(f"{_MICROSOFT}.2", "ContainerPlat-AMD-UVM"),
    UvmIssuer(f"{_MICROSOFT}.5", "ConfAKS-AMD-UVM"),
)


@dataclass(frozen=True, slots=True)
class UvmEndorsement:
    """A verified endorsement.

    Attributes:
        measurement: launch digest it speaks for, 48 bytes.
        signed_at: by the signer's word, None when it gives none.
    """

    issuer: str
    feed: str
    svn: int
    measurement: bytes
    signed_at: datetime | None


def verify_uvm_endorsement(
    data: bytes,
    *,
    measurement: bytes,
    at: datetime,
    issuers: Sequence[UvmIssuer] = AZURE_UVM_ISSUERS,
) -> UvmEndorsement:
    """Decide whether `data` endorses a measurement.

    Args:
        data: COSE_Sign1 (the decoded reference info), at most 1 MiB, from the untrusted host.
        measurement: the report's, 48 bytes.
        at: now, with a time zone; nothing may be signed after it.
        issuers: who may endorse.

    Raises:
        MalformedInput: it does not parse.
        EndorsementRejected: issuer, feed, SVN, chain, signature or measurement is not the one wanted.
    """
    message = parse_sign1(data)
    did, feed = (_header_text(message, key) for key in ("iss", "feed"))
    pinned = [issuer for issuer in issuers if issuer.did == did and issuer.feed == feed]
    if not pinned:
        raise EndorsementRejected(f"{_WHAT}: issuer {did[:160]!r}, feed {feed[:80]!r}, wanted a pinned pair")
    signed_at = _signing_time(message.protected.get("signingtime"))
    if signed_at and signed_at > at:
        raise EndorsementRejected(f"{_WHAT}: signed at {signed_at:%Y-%m-%d}, wanted before {at:%Y-%m-%d}")
    key = resolve(parse_did(did), certificates_of(message), at=signed_at or at)
    verify_sign1(message, key)
    svn, endorsed = _claims(message)
    lowest = min(issuer.minimum_svn for issuer in pinned)
    if svn < lowest:
        raise EndorsementRejected(f"{_WHAT}: SVN {svn}, wanted at least {lowest}")
    if not hmac.compare_digest(endorsed, measurement):
        raise EndorsementRejected(
            f"{_WHAT}: measurement {endorsed.hex()}, wanted the report's {measurement.hex()}"
        )
    return UvmEndorsement(did, feed, svn, endorsed, signed_at)


def _claims(message: Sign1) -> tuple[int, bytes]:
    if message.protected.get(CONTENT_TYPE) != "application/json":
        raise MalformedInput(f"{_WHAT}: content type is not application/json")
    claims = load_object(message.payload, what=_WHAT)
    svn, measurement = text_member(claims, _SVN, _WHAT), text_member(claims, _MEASUREMENT, _WHAT)
    if not re.fullmatch(r"[0-9]{1,10}", svn):
        raise MalformedInput(f"{_WHAT}: {_SVN} {svn[:32]!r}, wanted a number")
    if not re.fullmatch(r"[0-9a-fA-F]{96}", measurement):
        raise MalformedInput(
            f"{_WHAT}: {_MEASUREMENT} of {len(measurement)} characters, wanted 96 hexadecimal"
        )
    return int(svn), bytes.fromhex(measurement)


def _header_text(message: Sign1, key: str) -> str:
    value = message.protected.get(key)
    if not isinstance(value, str):
        raise MalformedInput(f"{_WHAT}: protected header has no {key!r}")
    return value


def _signing_time(value: Value) -> datetime | None:
    if value is None:
        return None
    seconds = value.value if isinstance(value, Tagged) and value.tag == _TAG_EPOCH else None
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 <= seconds < 1 << 33:
        raise MalformedInput(f"{_WHAT}: signingtime is not a time")
    return datetime.fromtimestamp(seconds, UTC)
