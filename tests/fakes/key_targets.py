"""Fuzz targets: everything of the key path that reads bytes from outside, on either side."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

from fakes import pki
from fakes.fuzz import Target
from sidecar.akv import (
    KeyRef,
    ReleaseRequest,
    build_release_request,
    parse_key_hsm,
    parse_release_request,
    parse_release_response,
    verify_release,
)
from sidecar.akvkeys import (
    Attributes,
    CreateRequest,
    ImportRequest,
    PolicyEnvelope,
    UpdateRequest,
    parse_create_request,
    parse_import_request,
    parse_key_bundle,
    parse_key_list,
    parse_update_request,
)
from sidecar.allow import Allowed
from sidecar.config import parse_settings
from sidecar.errors import SidecarError
from sidecar.grpcreflect import reflect
from sidecar.jose import parse_jws, sign_jws, x5c_of
from sidecar.jwk import jwk_of_private, jwk_of_public, jwk_of_secret, parse_jwk, parse_jwks
from sidecar.keyprovider import SERVICE
from sidecar.local.attestpolicy import parse_policy as parse_attestation_policy
from sidecar.local.dialect import MANAGED_HSM
from sidecar.local.policyroutes import DEFAULT_POLICY
from sidecar.local.releasing import release_answer
from sidecar.local.storedkey import StoredKey
from sidecar.maa import AttestRequest, build_attest_request, parse_attest_request, verify_token
from sidecar.ocicrypt import (
    AnnotationPacket,
    parse_key_info,
    parse_packet,
    parse_unwrap_input,
    parse_wrap_input,
)
from sidecar.protobuf import build_field
from sidecar.releasepolicy import build_policy, evaluate, parse_policy
from sidecar.strictjson import load_json, load_object
from sidecar.wrapping import WrapAlgorithm, unwrap_key_material, wrap_key_material

POLICY = build_policy(["https://a.example"], [[("a.b", "1"), ("c", True), ("d", 3)]])
WRAPPING = pki.wrapping_key()


def answer() -> bytes:
    """A genuine release answer."""
    key = StoredKey(
        "disk",
        "0" * 32,
        jwk_of_secret(b"s" * 32, kty="oct-HSM"),
        Attributes(),
        policy=PolicyEnvelope.of(POLICY),
    )
    public = WRAPPING.jwk.public_key()
    request = ReleaseRequest("", WrapAlgorithm.SHA256, "n")
    asked: dict[str, object] = {"api-version": "7.4", "kid": "https://localhost/keys/disk"}
    target = (WRAPPING.kid, public)
    jws = release_answer(MANAGED_HSM, "https://localhost", key, asked, request, target, pki.leaf())  # type: ignore[arg-type]
    return json.dumps({"value": jws}).encode()


def verified(data: bytes) -> None:
    """The client's whole reading of an answer. A changed one may parse, but must never verify."""
    jws = parse_release_response(data)
    verify_release(
        jws,
        host="localhost",
        roots=[pki.root().certificate],
        at=pki.NOW,
        key=KeyRef("disk"),
        wrapping_kid=WRAPPING.kid,
        enc=WrapAlgorithm.SHA256,
        nonce="n",
    )
    assert json.loads(data)["value"] == json.loads(GENUINE)["value"], "another answer verified"


GENUINE = answer()


def targets() -> list[Target]:
    """All of them; seeds are valid inputs of every kind."""
    keys = [jwk_of_private(pki.rsa_key()), jwk_of_private(pki.ec_key()), jwk_of_secret(b"s" * 32)]
    jwks = [json.dumps(k.to_dict(private=True)).encode() for k in keys]
    certificate = {"kty": "RSA", "kid": "k", "x5c": x5c_of([pki.self_signed().certificate])}
    key_set = json.dumps({"keys": [certificate, keys[0].to_dict()]}).encode()
    token = sign_jws(
        {"alg": "RS256", "kid": "k"}, b'{"iss":"https://a","exp":9,"nbf":1}', pki.self_signed().key
    )
    envelope = PolicyEnvelope.of(POLICY)
    attributes = Attributes(enabled=True, exportable=True, nbf=1, exp=2)
    imports = [ImportRequest(k, True, attributes, {"a": "b"}, envelope).to_bytes() for k in keys]
    bundle = {"key": jwk_of_public(pki.rsa_key().public_key(), kid="https://h/keys/a").to_dict()}
    bundle |= {"attributes": attributes.to_dict(), "release_policy": envelope.to_dict()}
    page = {"value": [{"kid": "https://h/keys/a", "attributes": {}, "tags": {}}], "nextLink": None}
    attest = AttestRequest(b"r" * 1184, b"pem", b"{}", endorsements=(b"c",), nonce="1")
    wrapped = wrap_key_material(WRAPPING.jwk.public_key(), b"k" * 32, WrapAlgorithm.SHA256)  # type: ignore[arg-type]
    hsm = parse_release_response(GENUINE).payload
    key_hsm = json.loads(hsm)["response"]["key"]["key"]["key_hsm"].encode()

    def text(call: Callable[[str], object]) -> Callable[[bytes], object]:
        return lambda data: call(data.decode("latin-1"))

    def policy(data: bytes) -> None:
        evaluate(parse_policy(data), {"iss": "https://a.example", "a": {"b": 1}, "c": True, "d": [3]})

    def unwrapped(data: bytes) -> None:
        unwrap_key_material(pki.rsa_key("wrapping "), data, WrapAlgorithm.SHA256)
        assert data == wrapped, "another wrapped key unwraps"

    found: list[tuple[str, list[bytes], Callable[[bytes], object]]] = [
        ("json", [key_set, *jwks], load_json),
        ("jwk", jwks, lambda d: parse_jwk(load_object(d)).public()),
        ("key set", [key_set], parse_jwks),
        ("jws", [token.encode(), json.loads(GENUINE)["value"].encode()], parse_jws),
        (
            "attestation token",
            [token.encode()],
            lambda d: verify_token(d.decode("latin-1"), parse_jwks(key_set), issuer="https://a", at=pki.NOW),
        ),
        ("attest request", [build_attest_request(attest)], parse_attest_request),
        ("release policy", [POLICY.to_bytes()], policy),
        (
            "release request",
            [build_release_request(ReleaseRequest("t", WrapAlgorithm.SHA256, "n"))],
            parse_release_request,
        ),
        ("release answer", [GENUINE], verified),
        ("key_hsm", [key_hsm], text(parse_key_hsm)),
        ("wrapped key", [wrapped], unwrapped),
        ("import request", imports, parse_import_request),
        ("create request", [CreateRequest("RSA", 2048, key_ops=("sign",)).to_bytes()], parse_create_request),
        (
            "update request",
            [UpdateRequest(("sign",), attributes, {}, envelope).to_bytes()],
            parse_update_request,
        ),
        ("key bundle", [json.dumps(bundle).encode()], parse_key_bundle),
        ("key list", [json.dumps(page).encode()], parse_key_list),
        ("attestation policy", [DEFAULT_POLICY.encode()], text(parse_attestation_policy)),
    ]
    found += served_targets()
    return [Target(name, seeds, call, SidecarError) for name, seeds, call in found]


def served_targets() -> list[tuple[str, list[bytes], Callable[[bytes], object]]]:
    """What the sidecar's settings and its key provider read."""
    agent = {"Parameters": {"attestation-agent": ["c2tyOmltYWdlcw=="]}}
    packet = AnnotationPacket("images", b"w" * 256, "v.vault.azure.net", "a.attest.azure.net").to_bytes()
    wrap = {"op": "keywrap", "keywrapparams": {"ec": agent, "optsdata": "e30="}}
    unwrap = {
        "op": "keyunwrap",
        "keyunwrapparams": {
            "dc": {"Parameters": {"attestation-agent": ["c2ty"]}},
            "annotation": base64.b64encode(packet).decode(),
        },
    }
    info = {"public_key_path": "a.pem", "kms_endpoint": "v", "attester_endpoint": "a"}
    allow = {
        "vaults": ["v.vault.azure.net"],
        "authorities": ["localhost:1"],
        "keys": ["a", "b/" + "0" * 32, "https://v.vault.azure.net/keys/c"],
        "callers": [{"uid": 0}, {"gid": 1, "uid": 2}],
    }
    settings = {
        "certcache": {"endpoint_type": "LocalTHIM", "endpoint": "169.254.169.254", "client_id": "clientId=x"},
        "identity": {"client_id": "x", "kind": "managed"},
        "maaconfig": {"user_agent": "agent"},
        "allow": allow,
        "wrapping_bits": 2048,
        "token_reuse_seconds": 60,
    }
    whole = json.dumps(settings).encode()
    message = SERVICE.methods[0].request.build({"key_provider_key_wrap_protocol_input": json.dumps(wrap)})
    questions = [
        build_field(4, SERVICE.full_name),
        build_field(3, SERVICE.file),
        build_field(7, "*"),
        build_field(1, "h") + build_field(6, "x"),
    ]
    return [
        ("settings", [whole, base64.b64encode(whole)], lambda d: parse_settings(d.decode("latin-1"))),
        ("wrap request", [json.dumps(wrap).encode()], parse_wrap_input),
        ("unwrap request", [json.dumps(unwrap).encode()], parse_unwrap_input),
        ("annotation packet", [packet], parse_packet),
        ("key info", [json.dumps(info).encode()], lambda d: parse_key_info(d, "key info")),
        ("grpc message", [message], SERVICE.methods[0].request.parse),
        ("reflection request", questions, lambda d: reflect([SERVICE], d)),
        ("runtime data", [b'{"keys": []}' * 30], Allowed(keys=()).check_runtime_data),
    ]
