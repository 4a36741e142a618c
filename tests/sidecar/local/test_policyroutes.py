"""The authority's policy over HTTP: set, seen in tokens, enforced, kept over a restart, reset."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from fakes import pki
from fakes.localcloud import Client, error

from sidecar.jose import b64u_decode, b64u_encode, parse_jws, payload_object, verify_jws
from sidecar.jwk import parse_jwks
from sidecar.local.policyroutes import RESOURCE
from sidecar.maa import policy_hash

PATH = "/policies/SevSnpVm?api-version=2022-08-01"
STRICT = """version= 1.0;
authorizationrules { [type=="x-ms-sevsnpvm-is-debuggable", value==false] => permit(); };
issuancerules { c:[type=="x-ms-sevsnpvm-hostdata"] => issue(type="workload", value=c.value); };"""
WRAPPING = pki.wrapping_key()
DEBUG = {"policy": 0x3001F | 1 << 19}


def wrapped(text: str, header: bytes = b'{"alg":"none"}') -> bytes:
    payload = json.dumps({"AttestationPolicy": b64u_encode(text.encode())}).encode()
    return f"{b64u_encode(header)}.{b64u_encode(payload)}.".encode()


async def policies(cloud: Client, method: str, path: str = PATH, body: bytes | None = None) -> Any:
    token = await cloud.access_token(RESOURCE)
    return await cloud.call("maa", method, path, content=body, headers={"authorization": f"Bearer {token}"})


async def shown(cloud: Client) -> str:
    answer = await policies(cloud, "GET")
    jws = parse_jws(answer.json()["token"])
    keys = parse_jwks((await cloud.call("maa", "GET", "/certs")).content)
    verify_jws(jws, keys[0].public_key())
    inner = payload_object(parse_jws(str(payload_object(jws)["x-ms-policy"])))
    return b64u_decode(str(inner["AttestationPolicy"])).decode()


async def test_policy_decides_and_adds_claims(start_cloud: Any) -> None:
    async with start_cloud() as cloud:
        assert (await cloud.attest(WRAPPING, **DEBUG)).status_code == 200
        answer = await policies(cloud, "PUT", body=wrapped(STRICT))
        assert payload_object(parse_jws(answer.json()["token"]))["x-ms-policy-result"] == "Updated"
        assert await shown(cloud) == STRICT
        assert error(await cloud.attest(WRAPPING, **DEBUG)) == (
            400,
            "PolicyEvaluationError",
            "No Permit claim was issued, authorization failed",
        )
    async with start_cloud() as cloud:
        assert await shown(cloud) == STRICT
        assert (await cloud.attest(WRAPPING, **DEBUG)).status_code == 400
        claims = payload_object(parse_jws(await cloud.token(WRAPPING, host_data=b"\x07" * 32)))
        assert claims["workload"] == claims["x-ms-sevsnpvm-hostdata"] == "07" * 32
        assert claims["x-ms-policy-hash"] == policy_hash(STRICT)
        assert (
            await policies(cloud, "POST", "/policies/SevSnpVm:reset?api-version=2022-08-01")
        ).status_code == 200
        assert (await cloud.attest(WRAPPING, **DEBUG)).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (wrapped("version= 1.0;"), "PolicyParsingError"),
        (wrapped(STRICT, b'{"alg":"RS256"}'), "InvalidOperation"),
        (wrapped(STRICT) + b"AAAA", "InvalidOperation"),
        (b"version= 1.0;", "InvalidParameter"),
        (b"eyJhbGciOiJub25lIn0.e30.", "InvalidParameter"),
    ],
)
async def test_bad_policies(cloud: Client, body: bytes, code: str) -> None:
    assert error(await policies(cloud, "PUT", body=body))[:2] == (400, code)
    assert "permit" in await shown(cloud)


@pytest.mark.parametrize("resource", ["https://vault.azure.net", None])
async def test_policy_needs_a_token_for_it(cloud: Client, resource: str | None) -> None:
    headers = {"authorization": f"Bearer {await cloud.access_token(resource)}"} if resource else {}
    answer = await cloud.call("maa", "PUT", PATH, content=wrapped(STRICT), headers=headers)
    assert error(answer)[:2] == (401, "Unauthorized")


async def test_clock_of_the_cloud_dates_its_tokens(start_cloud: Any) -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    async with start_cloud(clock=lambda: now) as cloud:
        claims = payload_object(parse_jws((await policies(cloud, "GET")).json()["token"]))
    assert claims["iat"] == int(now.timestamp())
