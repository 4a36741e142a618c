"""Attestation authority (MAA): attest request and attestation token, both directions.

Strategy: the client builds the request and checks the token it gets; the local authority parses the request
and builds the token. Both sides share this module, so each format is written down once.

Rules: `report_data` commits to the runtime data by SHA-256, zero padded to 64 bytes. Three layers of
base64url, padded when we write, either way when we read. A token is worth nothing before `verify_token`:
signature by a key of the authority's own key set, issuer, times, and, where the caller has them, nonce and
runtime data.

Spec: Azure Attestation REST API 2020-10-01 / 2022-08-01, AttestSevSnpVm; claim sets of SEV-SNP tokens.

Kind: pure
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jose import (
    PrivateKey,
    b64u_decode,
    b64u_encode,
    parse_jws,
    payload_object,
    sign_jws,
    verify_jws,
)
from sidecar.jwk import Jwk
from sidecar.releasepolicy import same_authority
from sidecar.snp.report import Report
from sidecar.strictjson import (
    JsonObject,
    as_list,
    as_object,
    as_text,
    dump_json,
    load_json,
    load_object,
    object_member,
    text_member,
)

API_VERSION = "2020-10-01"
ATTEST_PATH = "/attest/SevSnpVm"
TOKEN_LIFE = 28_800  # seconds, in every sample
# Clocks of guest and authority may differ by this much, seconds.
LEEWAY = 60
MAX_RUNTIME_DATA = 64 << 10  # bytes
MAX_ENDORSEMENTS = 8

# Bits of the guest policy. Spec: AMD 56860, GUEST_POLICY.
POLICY_SMT, POLICY_MIGRATION, POLICY_DEBUG = 1 << 16, 1 << 18, 1 << 19


class DataType(StrEnum):
    """Wire words for what runtime or init time data is."""

    JSON = "JSON"
    BINARY = "Binary"


@dataclass(frozen=True, slots=True)
class AttestRequest:
    """One attest request; everything in it is public.

    Attributes:
        report: raw report, 1184 bytes when honest.
        certificate_chain: PEM of VCEK, ASK, ARK.
        runtime_data: what `report_data` commits to; None where absent.
        init_time_data: what `host_data` commits to; None where absent.
        endorsements: COSE_Sign1 documents of the utility VM.
        nonce: echoed in the token; None where absent.
    """

    report: bytes
    certificate_chain: bytes
    runtime_data: bytes | None = None
    runtime_type: DataType = DataType.JSON
    init_time_data: bytes | None = None
    init_time_type: DataType = DataType.JSON
    endorsements: tuple[bytes, ...] = ()
    nonce: str | None = None


# -- request --------------------------------------------------------------------------------------


def build_attest_request(request: AttestRequest) -> bytes:
    """Write the request body; `build(parse(x))` differs from x in spelling only, never in meaning."""
    evidence: JsonObject = {
        "SnpReport": b64u_encode(request.report, padded=True),
        "VcekCertChain": b64u_encode(request.certificate_chain, padded=True),
    }
    if request.endorsements:
        uvm = {"Uvm": [b64u_encode(e, padded=True) for e in request.endorsements]}
        evidence["Endorsements"] = b64u_encode(dump_json(uvm), padded=True)
    body: JsonObject = {"report": b64u_encode(dump_json(evidence), padded=True)}
    if request.runtime_data is not None:
        body["runtimeData"] = _build_data(request.runtime_data, request.runtime_type)
    if request.init_time_data is not None:
        body["initTimeData"] = _build_data(request.init_time_data, request.init_time_type)
    if request.nonce is not None:
        body["nonce"] = request.nonce
    return dump_json(body)


def parse_attest_request(data: bytes) -> AttestRequest:
    """Read a request body, as the authority does.

    Raises:
        MalformedInput: not the shape, or base64url or JSON inside it is broken.
    """
    body = load_object(data, what="attest request")
    report_text = text_member(body, "report", "attest request")
    evidence = load_object(b64u_decode(report_text, what="report"), what="report")
    runtime, runtime_type = _parse_data(body, "runtimeData")
    init_time, init_type = _parse_data(body, "initTimeData")
    if body.get("draftPolicyForAttestation"):
        raise MalformedInput("attest request: draftPolicyForAttestation is not supported")
    return AttestRequest(
        report=_b64u_member(evidence, "SnpReport"),
        certificate_chain=_b64u_member(evidence, "VcekCertChain"),
        runtime_data=runtime,
        runtime_type=runtime_type,
        init_time_data=init_time,
        init_time_type=init_type,
        endorsements=_parse_endorsements(evidence.get("Endorsements")),
        nonce=_parse_nonce(body.get("nonce")),
    )


def report_data_for(runtime_data: bytes) -> bytes:
    """The 64 bytes a report must carry for this runtime data: SHA-256, then zeros. Public."""
    return hashlib.sha256(runtime_data).digest().ljust(64, b"\0")


def parse_attest_response(data: bytes) -> str:
    """The token of a success body; MalformedInput otherwise."""
    return text_member(load_object(data, what="attest response"), "token", "attest response")


def _build_data(data: bytes, kind: DataType) -> JsonObject:
    return {"data": b64u_encode(data, padded=True), "dataType": kind.value}


def _parse_data(body: JsonObject, name: str) -> tuple[bytes | None, DataType]:
    if body.get(name) is None:
        return None, DataType.JSON
    obj = object_member(body, name, "attest request")
    text, kind = text_member(obj, "data", name), text_member(obj, "dataType", name)
    if not text and not kind:
        # The predecessor always sends the member, with two empty strings when it has nothing to say.
        return None, DataType.JSON
    if kind not in tuple(DataType):
        raise MalformedInput(f"{name}: dataType is {kind[:32]!r}, wanted JSON or Binary")
    data = b64u_decode(text, what=f"{name}: data")
    if len(data) > MAX_RUNTIME_DATA:
        raise MalformedInput(f"{name}: {len(data)} bytes, at most {MAX_RUNTIME_DATA} are accepted")
    return data, DataType(kind)


def _b64u_member(evidence: JsonObject, name: str) -> bytes:
    return b64u_decode(text_member(evidence, name, "report"), what=f"report: {name}")


def _parse_endorsements(value: object) -> tuple[bytes, ...]:
    if value is None or value == "":
        return ()
    text = as_text(value, "report: Endorsements")
    inner = load_object(b64u_decode(text, what="report: Endorsements"), what="report: Endorsements")
    items = as_list(inner.get("Uvm"), "Endorsements: Uvm", max_items=MAX_ENDORSEMENTS)
    return tuple(b64u_decode(as_text(i, "Endorsements: Uvm"), what="Endorsements: Uvm") for i in items)


def _parse_nonce(value: object) -> str | None:
    """The predecessor sends a number where the specification has a string; the token has a string always."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return as_text(value, "attest request: nonce", max_length=1024)


# -- claims ---------------------------------------------------------------------------------------


def report_claims(report: Report) -> JsonObject:
    """The claims of a report, with names and types as the authority writes them.

    Spec: claim table of the SEV-SNP token; SVNs come from the reported TCB.
    """
    tcb = report.reported_tcb.components
    claims: JsonObject = {
        "authorkeydigest": report.author_key_digest.hex(),
        "bootloader-svn": tcb.get("boot_loader", 0),
        "familyId": report.family_id.hex(),
        "guestsvn": report.guest_svn,
        "hostdata": report.host_data.hex(),
        "idkeydigest": report.id_key_digest.hex(),
        "imageId": report.image_id.hex(),
        "is-debuggable": bool(report.policy & POLICY_DEBUG),
        "launchmeasurement": report.measurement.hex(),
        "microcode-svn": tcb.get("microcode", 0),
        "migration-allowed": bool(report.policy & POLICY_MIGRATION),
        "reportdata": report.report_data.hex(),
        "reportid": report.report_id.hex(),
        "smt-allowed": bool(report.policy & POLICY_SMT),
        "snpfw-svn": tcb.get("snp", 0),
        "tee-svn": tcb.get("tee", 0),
        "vmpl": report.vmpl,
    }
    return {f"x-ms-sevsnpvm-{name}": value for name, value in claims.items()}


def token_claims(
    report: Report,
    request: AttestRequest,
    *,
    issuer: str,
    at: datetime,
    token_id: str,
    policy_hash: str,
    compliance: str | None = None,
    endorsement: Mapping[str, object] | None = None,
) -> JsonObject:
    """All claims of a token for evidence that the authority has verified.

    Args:
        report: the verified report.
        request: the request it came with; its data hashes have been checked.
        issuer: `https://host`, without a trailing slash.
        at: time of issue.
        token_id: 64 lower-case hexadecimal digits.
        policy_hash: as `policy_hash` returns it.
        compliance: `x-ms-compliance-status`, only when an endorsement was verified.
        endorsement: claims of the verified utility VM endorsement.
    """
    now = int(at.timestamp())
    claims: JsonObject = {"exp": now + TOKEN_LIFE, "iat": now, "iss": issuer, "jti": token_id, "nbf": now}
    if request.nonce is not None:
        claims["nonce"] = request.nonce
    claims["x-ms-attestation-type"] = "sevsnpvm"
    if compliance:
        claims["x-ms-compliance-status"] = compliance
    claims["x-ms-policy-hash"] = policy_hash
    if request.runtime_data is not None and request.runtime_type is DataType.JSON:
        runtime = load_json(request.runtime_data, what="runtime data", max_bytes=MAX_RUNTIME_DATA)
        claims["x-ms-runtime"] = as_object(runtime, "runtime data")
    if request.init_time_data is not None and request.init_time_type is DataType.JSON:
        init = load_json(request.init_time_data, what="init time data", max_bytes=MAX_RUNTIME_DATA)
        claims["x-ms-inittime"] = as_object(init, "init time data")
    claims |= report_claims(report)
    if endorsement:
        claims["x-ms-sevsnpvm-uvm-endorsement"] = dict(endorsement)
    claims["x-ms-ver"] = "1.0"
    return claims


def policy_hash(policy: str) -> str:
    """`x-ms-policy-hash` of an attestation policy's text: SHA-256 over its base64url form, base64url."""
    return b64u_encode(hashlib.sha256(b64u_encode(policy.encode()).encode("ascii")).digest())


# -- token ----------------------------------------------------------------------------------------


def sign_token(claims: Mapping[str, object], key: PrivateKey, *, kid: str, issuer: str) -> str:
    """Sign claims as the authority does: RS256, key named by kid and key set address, no certificate."""
    header: JsonObject = {"alg": "RS256", "jku": f"{issuer}/certs", "kid": kid, "typ": "JWT"}
    return sign_jws(header, dump_json(dict(claims)), key)


def verify_token(
    token: str,
    keys: Sequence[Jwk],
    *,
    issuer: str,
    at: datetime,
    nonce: str | None = None,
    runtime_data: bytes | None = None,
) -> JsonObject:
    """Check an attestation token.

    Args:
        token: compact JWS.
        keys: the authority's published keys, fetched from the authority itself and never from `jku`.
        issuer: the authority's address; a trailing slash does not count.
        at: the time to judge by.
        nonce: what the request carried, when the caller knows.
        runtime_data: what the request carried, when the caller knows.

    Returns:
        the claims, verified.

    Raises:
        MalformedInput: not a token.
        VerificationFailed: key unknown, signature, issuer, times, nonce or runtime data wrong.
    """
    what = "attestation token"
    jws = parse_jws(token, what=what)
    verify_jws(jws, _choose_key(keys, jws.kid).public_key(), algorithms=("RS256",), what=what)
    claims = payload_object(jws, what)
    if not same_authority(issuer, str(claims.get("iss"))):
        raise VerificationFailed(f"{what}: issuer is {str(claims.get('iss'))[:200]!r}, wanted {issuer!r}")
    _check_times(claims, at, what)
    if nonce is not None and not _same(claims.get("nonce"), nonce):
        raise VerificationFailed(
            f"{what}: nonce is not the one we sent", hint="the token was not made for us"
        )
    if runtime_data is not None and not _same(
        claims.get("x-ms-sevsnpvm-reportdata"), report_data_for(runtime_data).hex()
    ):
        raise VerificationFailed(
            f"{what}: report data does not commit to our runtime data", hint="the token was not made for us"
        )
    return claims


def _choose_key(keys: Sequence[Jwk], kid: str | None) -> Jwk:
    for key in keys:
        if kid and key.kid == kid and key.use in ("", "sig"):
            return key
    raise VerificationFailed(
        f"attestation token: signed with key {str(kid)[:100]!r}, which the authority does not publish",
        hint="the authority may have changed its keys: fetch them again",
    )


def _check_times(claims: JsonObject, at: datetime, what: str) -> None:
    now = at.timestamp()
    times = {name: claims.get(name) for name in ("nbf", "exp")}
    for name, value in times.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise VerificationFailed(f"{what}: {name} is missing or no number")
        if name == "nbf" and now < value - LEEWAY:
            raise VerificationFailed(f"{what}: valid in {value - now:.0f} s only", hint="check the clock")
        if name == "exp" and now >= value + LEEWAY:
            raise VerificationFailed(f"{what}: expired {now - value:.0f} s ago", hint="attest again")


def _same(seen: object, wanted: str) -> bool:
    return isinstance(seen, str) and hmac.compare_digest(seen.encode(), wanted.encode())
