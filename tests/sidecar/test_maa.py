"""Attestation authority codec: both directions, the real report's claims, and tokens that must be refused."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes import pki

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jose import b64u_encode, x5c_of
from sidecar.jwk import parse_jwk
from sidecar.maa import (
    AttestRequest,
    DataType,
    build_attest_request,
    parse_attest_request,
    parse_attest_response,
    policy_hash,
    report_claims,
    report_data_for,
    sign_token,
    token_claims,
    verify_token,
)
from sidecar.snp.report import (
    Cpuid,
    FirmwareVersion,
    Report,
    Tcb,
    TcbLayout,
    parse_report,
)

ISSUER = "https://localhost:1234"
RUNTIME = pki.wrapping_key().runtime_data()
REQUEST = AttestRequest(b"r" * 1184, b"-----BEGIN", runtime_data=RUNTIME, nonce="3413764049005270139")


def report(**changes: Any) -> Report:
    tcb = Tcb.of(TcbLayout.MILAN, boot_loader=3, snp=8, microcode=115)
    base = Report(
        version=3,
        report_data=report_data_for(RUNTIME),
        measurement=b"\x11" * 48,
        host_data=b"\x22" * 32,
        policy=0x3001F,
        vmpl=0,
        reported_tcb=tcb,
        current_tcb=tcb,
        committed_tcb=tcb,
        launch_tcb=tcb,
        chip_id=b"\x33" * 64,
        cpuid=Cpuid(0x19, 1, 1),
        current_version=FirmwareVersion(1, 55, 1),
        committed_version=FirmwareVersion(1, 55, 1),
        guest_svn=2,
    )
    return replace(base, **changes)


# -- request --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_value",
    [
        REQUEST,
        replace(REQUEST, nonce=None, runtime_data=None),
        replace(REQUEST, endorsements=(b"cose one", b"cose two")),
        replace(
            REQUEST, runtime_type=DataType.BINARY, init_time_data=b"policy", init_time_type=DataType.BINARY
        ),
    ],
)
def test_request_round_trip(request_value: AttestRequest) -> None:
    assert parse_attest_request(build_attest_request(request_value)) == request_value


def pad(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def test_request_has_the_documented_layers() -> None:
    """Taken apart with the standard library only."""
    body = json.loads(build_attest_request(replace(REQUEST, endorsements=(b"c",))))
    assert list(body) == ["report", "runtimeData", "nonce"]
    assert body["runtimeData"]["dataType"] == "JSON"
    assert base64.urlsafe_b64decode(body["runtimeData"]["data"]) == RUNTIME
    evidence = json.loads(base64.urlsafe_b64decode(body["report"]))
    assert list(evidence) == ["SnpReport", "VcekCertChain", "Endorsements"]
    assert len(base64.urlsafe_b64decode(evidence["SnpReport"])) == 1184
    inner = json.loads(base64.urlsafe_b64decode(evidence["Endorsements"]))
    assert base64.urlsafe_b64decode(inner["Uvm"][0]) == b"c"


def predecessor_body(**changes: Any) -> bytes:
    evidence = {"SnpReport": pad(b"r" * 1184), "VcekCertChain": pad(b"pem"), "Endorsements": ""}
    body = {
        "report": pad(json.dumps(evidence).encode()),
        "runtimeData": {"data": pad(b"{}"), "dataType": "JSON"},
        "initTimeData": {"data": "", "dataType": ""},
        "nonce": 3413764049005270139,
    }
    return json.dumps(body | changes).encode()


def test_predecessors_request_is_read() -> None:
    """A number as nonce, empty init time data, padded base64url."""
    request = parse_attest_request(predecessor_body())
    assert request.nonce == "3413764049005270139"
    assert request.init_time_data is None
    assert request.endorsements == ()


def test_unpadded_request_is_read() -> None:
    body = json.loads(predecessor_body())
    body["report"] = body["report"].rstrip("=")
    assert parse_attest_request(json.dumps(body).encode()) == parse_attest_request(predecessor_body())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"report": 5}, "'report': is a number"),
        ({"report": "!"}, "not base64url"),
        ({"report": pad(b"[]")}, "report: is an array"),
        ({"report": pad(b"{}")}, "'SnpReport' is missing"),
        ({"runtimeData": "x"}, "'runtimeData': is a string"),
        ({"runtimeData": {"data": "AA"}}, "'dataType' is missing"),
        ({"runtimeData": {"data": "AA", "dataType": "XML"}}, "dataType is 'XML'"),
        ({"runtimeData": {"data": pad(bytes(65537)), "dataType": "Binary"}}, "65537 bytes"),
        ({"nonce": True}, "nonce: is true or false"),
        ({"nonce": 1.5}, "nonce: is a number"),
        ({"nonce": "x" * 1025}, "1025 characters"),
        ({"draftPolicyForAttestation": "version= 1.0;"}, "not supported"),
    ],
)
def test_requests_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        parse_attest_request(predecessor_body(**changes))


def test_response() -> None:
    assert parse_attest_response(b'{"token":"a.b.c"}') == "a.b.c"
    for body in (b"{}", b"[]", b'{"token":null}'):
        with pytest.raises(MalformedInput):
            parse_attest_response(body)


# -- claims ---------------------------------------------------------------------------------------


def test_claim_names_and_types() -> None:
    claims = report_claims(report())
    prefix = "x-ms-sevsnpvm-"
    assert {k.removeprefix(prefix): v for k, v in claims.items()} == {
        "authorkeydigest": "00" * 48,
        "bootloader-svn": 3,
        "familyId": "00" * 16,
        "guestsvn": 2,
        "hostdata": "22" * 32,
        "idkeydigest": "00" * 48,
        "imageId": "00" * 16,
        "is-debuggable": False,
        "launchmeasurement": "11" * 48,
        "microcode-svn": 115,
        "migration-allowed": False,
        "reportdata": hashlib.sha256(RUNTIME).hexdigest() + "00" * 32,
        "reportid": "00" * 32,
        "smt-allowed": True,
        "snpfw-svn": 8,
        "tee-svn": 0,
        "vmpl": 0,
    }
    for name in ("is-debuggable", "migration-allowed", "smt-allowed"):
        assert type(claims[prefix + name]) is bool
    for name in ("guestsvn", "vmpl", "tee-svn"):
        assert type(claims[prefix + name]) is int


@pytest.mark.parametrize(
    ("bit", "claim"), [(16, "smt-allowed"), (18, "migration-allowed"), (19, "is-debuggable")]
)
def test_policy_bits(bit: int, claim: str) -> None:
    name = f"x-ms-sevsnpvm-{claim}"
    assert report_claims(report(policy=1 << bit))[name] is True
    assert report_claims(report(policy=0xFFFFFFFFFFFFFFFF ^ (1 << bit)))[name] is False


def test_turin_places_its_levels_elsewhere() -> None:
    tcb = Tcb.of(TcbLayout.TURIN, fmc=9, boot_loader=1, tee=2, snp=3, microcode=4)
    claims = report_claims(report(reported_tcb=tcb))
    levels = [claims[f"x-ms-sevsnpvm-{n}-svn"] for n in ("bootloader", "tee", "snpfw", "microcode")]
    assert levels == [1, 2, 3, 4]


def test_claims_of_a_real_report(shared_snp: Path) -> None:
    files = [p for p in shared_snp.rglob("*") if p.is_file() and p.stat().st_size == 1184]
    if not files:
        pytest.skip(f"no raw report of 1184 bytes under {shared_snp}")
    raw = files[0].read_bytes()
    claims = report_claims(parse_report(raw))
    assert claims["x-ms-sevsnpvm-reportdata"] == raw[80:144].hex()
    assert claims["x-ms-sevsnpvm-launchmeasurement"] == raw[144:192].hex()
    assert claims["x-ms-sevsnpvm-hostdata"] == raw[192:224].hex()
    assert claims["x-ms-sevsnpvm-reportid"] == raw[320:352].hex()
    assert claims["x-ms-sevsnpvm-is-debuggable"] is bool(raw[10] >> 3 & 1)


def test_default_policy_hash_form() -> None:
    """base64url(SHA-256(base64url(text))), written out once more by hand."""
    text = "version= 1.0;\nauthorizationrules{\n\t=> permit();\n};\n"
    inner = base64.urlsafe_b64encode(text.encode()).rstrip(b"=")
    outer = base64.urlsafe_b64encode(hashlib.sha256(inner).digest()).rstrip(b"=")
    assert policy_hash(text) == outer.decode()


# -- token ----------------------------------------------------------------------------------------

SIGNER = pki.self_signed()
KEYS = [parse_jwk({"kty": "RSA", "kid": "key=", "use": "sig", "x5c": x5c_of([SIGNER.certificate])})]


def claims_for(**changes: Any) -> dict[str, Any]:
    claims = token_claims(
        report(), REQUEST, issuer=ISSUER, at=pki.NOW, token_id="ab" * 32, policy_hash=policy_hash("x")
    )
    return {k: v for k, v in (claims | changes).items() if v is not None}


def token(key: Any = SIGNER.key, kid: str = "key=", **changes: Any) -> str:
    return sign_token(claims_for(**changes), key, kid=kid, issuer=ISSUER)


GOOD: dict[str, Any] = {
    "keys": KEYS,
    "issuer": ISSUER,
    "at": pki.NOW,
    "nonce": REQUEST.nonce,
    "runtime_data": RUNTIME,
}


def test_good_token() -> None:
    claims = verify_token(token(), **GOOD)
    assert claims == claims_for()
    assert claims["exp"] - claims["iat"] == 28800  # type: ignore[operator]
    assert claims["x-ms-runtime"] == json.loads(RUNTIME)
    assert claims["nonce"] == "3413764049005270139"
    header = json.loads(base64.urlsafe_b64decode(token().split(".")[0] + "=="))
    assert header == {"alg": "RS256", "jku": f"{ISSUER}/certs", "kid": "key=", "typ": "JWT"}


def test_absent_things_have_no_claim() -> None:
    bare = token_claims(
        report(),
        replace(REQUEST, runtime_data=None, nonce=None),
        issuer=ISSUER,
        at=pki.NOW,
        token_id="0",
        policy_hash="h",
    )
    for name in (
        "nonce",
        "x-ms-runtime",
        "x-ms-inittime",
        "x-ms-compliance-status",
        "x-ms-sevsnpvm-uvm-endorsement",
    ):
        assert name not in bare


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keys": []}, "does not publish"),
        ({"keys": [replace(KEYS[0], kid="other")]}, "does not publish"),
        ({"keys": [replace(KEYS[0], use="enc")]}, "does not publish"),
        ({"issuer": "https://localhost:1235"}, "issuer is 'https://localhost:1234'"),
        ({"at": pki.NOW + timedelta(seconds=28861)}, "expired 61 s ago"),
        ({"at": pki.NOW - timedelta(seconds=61)}, "valid in 61 s only"),
        ({"nonce": "other"}, "nonce is not the one"),
        ({"runtime_data": RUNTIME + b" "}, "does not commit"),
    ],
)
def test_tokens_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(VerificationFailed, match=reason):
        verify_token(token(), **(GOOD | changes))


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"nonce": None}, "nonce"),
        ({"nonce": 5}, "nonce"),
        ({"x-ms-sevsnpvm-reportdata": None}, "does not commit"),
        ({"iss": None}, "issuer"),
        ({"exp": None}, "exp is missing"),
        ({"exp": "9999999999"}, "exp is missing or no number"),
        ({"exp": True}, "exp is missing or no number"),
        ({"nbf": None}, "nbf is missing"),
    ],
)
def test_signed_but_wrong_claims(claims: dict[str, Any], reason: str) -> None:
    with pytest.raises(VerificationFailed, match=reason):
        verify_token(token(**claims), **GOOD)


def test_leeway_is_a_minute_and_the_slash_does_not_count() -> None:
    verify_token(token(), **(GOOD | {"at": pki.NOW + timedelta(seconds=28859)}))
    verify_token(token(), **(GOOD | {"at": pki.NOW - timedelta(seconds=60)}))
    verify_token(token(), **(GOOD | {"issuer": ISSUER + "/"}))


def test_token_signed_by_another_key_under_the_published_kid() -> None:
    with pytest.raises(VerificationFailed, match="signature is wrong"):
        verify_token(token(key=pki.rsa_key()), **GOOD)


def test_token_with_hmac_over_the_public_key() -> None:
    """The classic confusion: the public certificate used as an HMAC secret."""
    header = b64u_encode(b'{"alg":"HS256","kid":"key="}')
    with pytest.raises(VerificationFailed, match="signed with 'HS256'"):
        verify_token(f"{header}.{b64u_encode(json.dumps(claims_for()).encode())}.AAAA", **GOOD)
