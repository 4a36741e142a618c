"""The whole cloud in a box over real sockets and TLS: a key on its way, every refusal, restart, files."""

from __future__ import annotations

import hashlib
import json
import ssl
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import pki
from fakes.localcloud import RESOURCE, Client, error

from sidecar.akv import REFUSAL_HEADER
from sidecar.errors import UsageError
from sidecar.jose import b64u_decode, parse_jws, payload_object
from sidecar.jwk import jwk_of_private, jwk_of_secret, parse_jwks
from sidecar.local.authority import Authority
from sidecar.local.refusal import Refusal
from sidecar.local.service import utc_now
from sidecar.local.store import Store
from sidecar.local.tokens import TokenSigner
from sidecar.maa import AttestRequest, build_attest_request, report_data_for, sign_token, verify_token
from sidecar.releasepolicy import ReleasePolicy, build_policy
from sidecar.server import bind_loopback
from sidecar.snp.roots import Roots

POLICY = b"package policy\n"
DIGEST = hashlib.sha256(POLICY).digest()
SECRET = bytes(range(32))
OCT = jwk_of_secret(SECRET, kty="oct-HSM", key_ops=("wrapKey",))
RSA = jwk_of_private(pki.rsa_key("released"), kty="RSA-HSM", key_ops=("sign",))
EC = jwk_of_private(pki.ec_key("P-384"), kty="EC-HSM", key_ops=("sign",))
WRAPPING = pki.wrapping_key()


def policy(client: Client, digest: bytes = DIGEST, *more: tuple[str, Any]) -> ReleasePolicy:
    claims = [("x-ms-attestation-type", "sevsnpvm"), ("x-ms-sevsnpvm-hostdata", digest.hex()), *more]
    return build_policy([client.cloud.url("maa")], [claims])


# -- the main road --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "key"), [("akv", RSA), ("akv", EC), ("mhsm", OCT), ("mhsm", RSA), ("mhsm", EC)]
)
async def test_key_reaches_the_guest(cloud: Client, service: str, key: Any) -> None:
    """Import, attest, release, verify, unwrap: what went in comes out, and nothing was skipped."""
    bundle = await cloud.imported(service, "disk", key, policy(cloud))
    token = await cloud.token(WRAPPING, host_data=DIGEST)
    answer = await cloud.release(service, "disk", token, nonce="n")
    released = cloud.opened(service, "disk", answer, WRAPPING)
    assert released.kid == bundle["key"]["kid"]
    assert released.jwk() == key.to_dict(private=True) | {"kty": key.family}


async def test_token_is_what_the_authority_publishes(cloud: Client) -> None:
    token = await cloud.token(WRAPPING, host_data=DIGEST)
    certs = await cloud.call("maa", "GET", "/certs")
    keys = parse_jwks(certs.content)
    assert set(certs.json()["keys"][0]) == {"alg", "kid", "kty", "use", "x5c"}
    claims = verify_token(
        token,
        keys,
        issuer=cloud.cloud.url("maa"),
        at=datetime.now(UTC),
        nonce="7",
        runtime_data=WRAPPING.runtime_data(),
    )
    assert claims["x-ms-sevsnpvm-hostdata"] == DIGEST.hex()
    assert claims["x-ms-runtime"] == json.loads(WRAPPING.runtime_data())
    assert "x-ms-compliance-status" not in claims
    document = (await cloud.call("maa", "GET", "/.well-known/openid-configuration")).json()
    assert document["issuer"] == claims["iss"] == cloud.cloud.url("maa")
    assert document["jwks_uri"] == cloud.cloud.url("maa") + "/certs"
    assert parse_jws(token).kid == keys[0].kid


async def test_versions_double_slash_and_spelling_of_the_path(cloud: Client) -> None:
    first = await cloud.imported("mhsm", "disk", OCT, policy(cloud))
    await cloud.imported("mhsm", "disk", RSA, policy(cloud))
    token = await cloud.token(WRAPPING, host_data=DIGEST)
    old = first["key"]["kid"].rsplit("/", 1)[1]
    kinds = {}
    for kid in ("disk", "disk/", f"disk/{old}"):
        answer = await cloud.release("mhsm", kid, token)
        kinds[kid] = cloud.opened("mhsm", kid, answer, WRAPPING).kty
    assert kinds == {"disk": "RSA", "disk/": "RSA", f"disk/{old}": "oct"}


# -- dialects -------------------------------------------------------------------------------------


async def test_dialects_of_the_signed_answer(cloud: Client) -> None:
    """The differences that recorded answers of both services show."""
    token = await cloud.token(WRAPPING, host_data=DIGEST)
    seen: dict[str, Any] = {}
    for service in ("akv", "mhsm"):
        bundle = await cloud.imported(service, "disk", RSA, policy(cloud))
        jws = parse_jws((await cloud.release(service, "disk", token)).json()["value"])
        seen[service] = (bundle, jws.header, payload_object(jws))
    bundle, header, payload = seen["akv"]
    inner: Any = payload["response"]["key"]
    assert list(header) == ["alg", "kid", "x5t", "typ", "x5t#S256", "x5c"]
    assert len(header["x5c"]) == 3
    assert bundle["key"]["e"] == inner["key"]["e"] == "AAEAAQ"
    assert bundle["key"]["kty"] == inner["key"]["kty"] == "RSA-HSM"
    assert list(inner["release_policy"]) == ["data"]
    assert list(json.loads(b64u_decode(bundle["release_policy"]["data"]))) == ["version", "anyOf"]
    bundle, header, payload = seen["mhsm"]
    inner = payload["response"]["key"]
    assert list(header) == ["alg", "kid", "x5c", "x5t#S256"]
    assert header["kid"] == header["x5t#S256"]
    assert bundle["key"]["e"] == inner["key"]["e"] == "AQAB"
    assert (bundle["key"]["kty"], inner["key"]["kty"]) == ("RSA-HSM", "RSA")
    assert list(inner["release_policy"]) == ["contentType", "data"]
    assert list(json.loads(b64u_decode(bundle["release_policy"]["data"]))) == ["anyOf", "version"]
    assert payload["request"] == {
        "api-version": "7.4",
        "enc": "RSA_AES_KEY_WRAP_256",
        "kid": f"{cloud.cloud.url('mhsm')}/keys/disk",
    }


async def test_default_enc_is_the_services_sha1(cloud: Client) -> None:
    await cloud.imported("mhsm", "disk", OCT, policy(cloud))
    token = await cloud.token(WRAPPING, host_data=DIGEST)
    answer = await cloud.release("mhsm", "disk", token, enc=None)
    payload: Any = payload_object(parse_jws(answer.json()["value"]))
    assert payload["request"]["enc"] == "CKM_RSA_AES_KEY_WRAP"


@pytest.mark.parametrize("service", ["akv", "mhsm"])
async def test_challenge(cloud: Client, service: str) -> None:
    """The first request of the SDKs has neither token nor body."""
    answer = await cloud.call(service, "POST", "/keys/disk/release?api-version=7.4")
    assert answer.status_code == 401
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith(f'Bearer authorization="{cloud.cloud.url("sts")}/')
    assert f'resource="{RESOURCE[service]}"' in challenge
    if service == "akv":
        assert error(answer)[1:] == ("Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.")
    else:
        assert answer.content == b""


# -- refusals -------------------------------------------------------------------------------------


async def test_wrong_digest_is_refused_and_the_claim_is_named(cloud: Client) -> None:
    await cloud.imported("akv", "disk", RSA, policy(cloud))
    answer = await cloud.release("akv", "disk", await cloud.token(WRAPPING, host_data=b"\x01" * 32))
    assert error(answer) == (
        403,
        "Forbidden",
        "Target environment attestation does not meet key release policy requirements.",
    )
    detail = json.loads(b64u_decode(answer.headers[REFUSAL_HEADER]))
    assert detail["failures"] == [
        {
            "authority": cloud.cloud.url("maa"),
            "claim": "x-ms-sevsnpvm-hostdata",
            "wanted": DIGEST.hex(),
            "seen": "01" * 32,
        }
    ]


async def test_policy_for_another_authority(cloud: Client) -> None:
    other = build_policy(["https://other.example"], [[("x-ms-attestation-type", "sevsnpvm")]])
    await cloud.imported("mhsm", "disk", OCT, other)
    answer = await cloud.release("mhsm", "disk", await cloud.token(WRAPPING))
    status, code, message = error(answer)
    assert (status, code) == (403, "Forbidden")
    assert "(Activity ID: " in message
    detail = json.loads(b64u_decode(answer.headers[REFUSAL_HEADER]))
    assert detail["failures"][0]["claim"] == "iss"


async def test_debuggable_guest_and_vmpl(cloud: Client) -> None:
    strict = policy(cloud, DIGEST, ("x-ms-sevsnpvm-is-debuggable", "false"), ("x-ms-sevsnpvm-vmpl", "0"))
    await cloud.imported("mhsm", "disk", OCT, strict)
    good = await cloud.token(WRAPPING, host_data=DIGEST)
    assert (await cloud.release("mhsm", "disk", good)).status_code == 200
    for change in ({"policy": 0x3001F | 1 << 19}, {"vmpl": 1}):
        bad = await cloud.token(WRAPPING, host_data=DIGEST, **change)
        assert (await cloud.release("mhsm", "disk", bad)).status_code == 403


@pytest.mark.parametrize(
    "damage",
    ["signature", "payload", "unsigned", "foreign", "garbage"],
)
async def test_tokens_that_no_authority_signed(cloud: Client, damage: str) -> None:
    await cloud.imported("mhsm", "disk", OCT, policy(cloud))
    good = await cloud.token(WRAPPING, host_data=DIGEST)
    head, payload, signature = good.split(".")
    claims = payload_object(parse_jws(good))
    kid = parse_jws(good).kid or ""
    broken = {
        "signature": f"{head}.{payload}.{'A' * 342}",
        "payload": f"{head}.{payload[:-4]}AAAA.{signature}",
        "unsigned": f"{head}.{payload}.",
        "foreign": sign_token(claims, pki.rsa_key(), kid=kid, issuer=cloud.cloud.url("maa")),
        "garbage": "not a token",
    }[damage]
    status, code, message = error(await cloud.release("mhsm", "disk", broken))
    assert (status, code) == (403, "Forbidden")
    assert message.startswith("Target environment attestation statement cannot be verified.")


async def test_token_of_an_unknown_authority(cloud: Client) -> None:
    await cloud.imported("akv", "disk", RSA, policy(cloud))
    claims = {"iss": "https://evil.example", "exp": 9999999999, "nbf": 0}
    token = sign_token(claims, pki.rsa_key(), kid="k", issuer="https://evil.example")
    assert error(await cloud.release("akv", "disk", token)) == (
        400,
        "BadParameter",
        "AKV.SKR.1012: The specified attestation service https://evil.example cannot be reached.",
    )


async def test_evidence_that_does_not_verify(cloud: Client) -> None:
    """The authority checks signature, chain and commitment for real."""
    processor, runtime = cloud.cloud.processor, WRAPPING.runtime_data()
    good = processor.sign_report(report_data_for(runtime))
    chain = processor.chain.to_pem()
    flipped = bytearray(good)
    flipped[0x90] ^= 1
    cases = {
        "measurement changed": AttestRequest(bytes(flipped), chain, runtime),
        "other runtime data": AttestRequest(good, chain, b'{"keys":[]}'),
        "other init time data": AttestRequest(good, chain, runtime, init_time_data=b"x"),
        "no chain": AttestRequest(good, b"", runtime),
        "chain of others": AttestRequest(good, pki.leaf().chain_pem(), runtime),
        "short report": AttestRequest(good[:-1], chain, runtime),
    }
    for name, request in cases.items():
        path = "/attest/SevSnpVm?api-version=2020-10-01"
        answer = await cloud.call("maa", "POST", path, content=build_attest_request(request))
        assert error(answer)[:2] == (400, "InvalidParameter"), name
    answer = await cloud.call("maa", "POST", "/attest/sevsnpvm?api-version=2020-10-01", content=b"{}")
    assert error(answer)[:2] == (400, "InvalidParameter")
    answer = await cloud.call("maa", "POST", "/attest/SevSnpVm?api-version=1", content=b"{}")
    assert "api-version" in error(answer)[2]


async def test_root_that_is_not_accepted(cloud: Client, tmp_path: Path) -> None:
    """The software processor counts only where its root was passed; AMD's roots alone refuse it."""
    authority = Authority(
        issuer="https://x",
        signer=pki.self_signed(),
        roots=Roots.amd(),
        store=Store(tmp_path / "db"),
        tokens=TokenSigner("https://x", pki.self_signed()),
        clock=utc_now,
    )
    runtime = WRAPPING.runtime_data()
    processor = cloud.cloud.processor
    request = AttestRequest(
        processor.sign_report(report_data_for(runtime)), processor.chain.to_pem(), runtime
    )
    with pytest.raises(Refusal, match="evidence refused"):
        authority.attest(build_attest_request(request))


# -- life of the box ------------------------------------------------------------------------------


async def test_state_survives_a_restart(start_cloud: Any) -> None:
    async with start_cloud() as client:
        bundle = await client.imported("mhsm", "disk", OCT, policy(client))
        root, hosts = client.cloud.ca_file.read_bytes(), client.cloud.environment
    async with start_cloud() as client:
        assert client.cloud.ca_file.read_bytes() == root
        assert client.cloud.environment == hosts
        token = await client.token(WRAPPING, host_data=DIGEST)
        released = client.opened("mhsm", "disk", await client.release("mhsm", "disk", token), WRAPPING)
        assert released.kid == bundle["key"]["kid"]


async def test_one_process_a_directory(start_cloud: Any) -> None:
    async with start_cloud():
        with pytest.RaisesGroup(
            pytest.RaisesExc(UsageError, match="in use by another"), flatten_subgroups=True
        ):
            async with start_cloud():
                raise AssertionError("two at once")


async def test_files_are_private_and_the_environment_is_for_a_shell(
    cloud: Client, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "state"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        wanted = 0o700 if path.is_dir() else 0o600
        assert path.suffix == ".pem" or stat.S_IMODE(path.stat().st_mode) == wanted, path
    script = f'. {directory}/env; echo "$AKV_ENDPOINT $SIDECAR_SNP $SIDECAR_MANAGED_HSM_HOSTS"'
    shell = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    assert shell.stdout == f"{cloud.cloud.host('akv')} software {cloud.cloud.host('mhsm')}\n"
    assert not list(directory.glob(".*.new"))


async def test_one_ready_line(start_cloud: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with start_cloud(env_file=tmp_path / "somewhere"):
        out, err = capfd.readouterr()
    assert out == f"sidecar local: ready {tmp_path / 'somewhere'}\n"
    assert "not Azure" in err
    assert all(line.startswith("sidecar local: ") for line in err.splitlines())


async def test_stranger_cannot_speak_tls_without_the_root(cloud: Client) -> None:
    async with httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(cloud.cloud.url("akv"))


async def test_port_that_is_taken(start_cloud: Any) -> None:
    async with start_cloud() as client:
        port = client.cloud.ports["akv"]
    with bind_loopback(port=port) as thief:
        thief.listen()
        with pytest.RaisesGroup(
            pytest.RaisesExc(UsageError, match=f"akv: port {port}, which this directory has used"),
            flatten_subgroups=True,
        ):
            async with start_cloud():
                raise AssertionError("started")


async def test_fixed_ports_and_compliance(start_cloud: Any) -> None:
    with bind_loopback() as free:
        port = free.getsockname()[1]
    async with start_cloud(ports={"maa": port}, compliance="azure-compliant-uvm") as client:
        assert client.cloud.url("maa") == f"https://localhost:{port}"
        claims = payload_object(parse_jws(await client.token(WRAPPING)))
        assert claims["x-ms-compliance-status"] == "azure-compliant-uvm"
