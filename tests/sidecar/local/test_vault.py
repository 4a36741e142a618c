"""The key routes: versions, pages, states of a key, throttling, soft delete over time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fakes import pki
from fakes.localcloud import RESOURCE, Client, error

from sidecar.akvkeys import (
    Attributes,
    CreateRequest,
    ImportRequest,
    PolicyEnvelope,
    UpdateRequest,
    parse_key_bundle,
    parse_key_list,
)
from sidecar.jwk import jwk_of_private, jwk_of_secret
from sidecar.maa import AttestRequest, build_attest_request, report_data_for
from sidecar.releasepolicy import ReleasePolicy, build_policy

RSA = jwk_of_private(pki.rsa_key("released"), kty="RSA-HSM", key_ops=("sign",))
OCT = jwk_of_secret(bytes(32), kty="oct-HSM")
WRAPPING = pki.wrapping_key()
EC_BODY = CreateRequest("EC-HSM", crv="P-256").to_bytes()


def policy(cloud: Client) -> ReleasePolicy:
    return build_policy([cloud.cloud.url("maa")], [[("x-ms-attestation-type", "sevsnpvm")]])


async def test_our_own_codec_reads_what_the_vault_shows(cloud: Client) -> None:
    bundle = parse_key_bundle(json.dumps(await cloud.imported("akv", "disk", RSA, policy(cloud))).encode())
    assert bundle.key.public_key() == RSA.public_key()
    assert bundle.release_policy is not None
    assert bundle.release_policy.policy() == policy(cloud)
    assert bundle.attributes.exportable is True


@pytest.mark.parametrize("path", ["/keys/disk", "/keys/disk/", "/keys/DISK"])
async def test_newest_version(cloud: Client, path: str) -> None:
    made = [(await cloud.keys("akv", "POST", "/keys/disk/create", EC_BODY)).json() for _ in range(2)]
    assert (await cloud.keys("akv", "GET", path)).json()["key"]["kid"] == made[1]["key"]["kid"]
    old = made[0]["key"]["kid"].removeprefix(cloud.cloud.url("akv"))
    assert (await cloud.keys("akv", "GET", old)).json() == made[0]


async def test_pages(cloud: Client) -> None:
    for index in range(5):
        await cloud.keys("akv", "POST", f"/keys/key-{index}/create", EC_BODY)
    seen, sizes = [], []
    headers = {"authorization": f"Bearer {await cloud.access_token(RESOURCE['akv'])}"}
    link: str | None = cloud.cloud.url("akv") + "/keys?api-version=7.4&maxresults=2"
    while link:
        answer = await cloud.http.get(link, headers=headers)
        items, link = parse_key_list(answer.content)
        sizes.append(len(items))
        seen += [item.kid.rsplit("/", 1)[1] for item in items]
    assert sizes == [2, 2, 1]
    assert seen == [f"key-{index}" for index in range(5)]


@pytest.mark.parametrize(
    "query", [{"maxresults": "26"}, {"maxresults": "x"}, {"$skiptoken": "!"}, {"$skiptoken": "YQ"}]
)
async def test_bad_pages(cloud: Client, query: dict[str, str]) -> None:
    assert error(await cloud.keys("akv", "GET", "/keys", None, **query))[:2] == (400, "BadParameter")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/keys/none"),
        ("GET", "/keys/none/" + "0" * 32),
        ("GET", "/keys/none/versions"),
        ("PATCH", "/keys/none"),
        ("DELETE", "/keys/none"),
        ("GET", "/deletedkeys/none"),
        ("POST", "/deletedkeys/none/recover"),
        ("DELETE", "/deletedkeys/none"),
    ],
)
async def test_missing_keys(cloud: Client, method: str, path: str) -> None:
    status, code, message = error(await cloud.keys("akv", method, path, b"{}"))
    assert (status, code) == (404, "KeyNotFound")
    assert "none" in message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/keys/a_b"),
        ("GET", "/keys/a%2F..%2Fb"),
        ("PUT", "/keys/a%00"),
        ("GET", "/keys/a/notaversion"),
    ],
)
async def test_names_that_cannot_be(cloud: Client, method: str, path: str) -> None:
    assert error(await cloud.keys("akv", method, path, b"{}"))[:2] == (400, "BadParameter")


@pytest.mark.parametrize("version", ["", "6.0", "7.99", "2025-07-02"])
async def test_api_versions(cloud: Client, version: str) -> None:
    answer = await cloud.keys("akv", "GET", "/keys", None, **{"api-version": version})
    assert error(answer)[:2] == (400, "BadParameter")


async def test_release_needs_a_version_that_has_it(cloud: Client) -> None:
    await cloud.imported("akv", "disk", RSA, policy(cloud))
    token = await cloud.token(WRAPPING)
    body = b'{"target":"' + token.encode() + b'"}'
    statuses = {}
    for version in ("7.2", "7.3-preview", "7.3", "2025-07-01"):
        answer = await cloud.keys("akv", "POST", "/keys/disk/release", body, **{"api-version": version})
        statuses[version] = answer.status_code
    assert statuses == {"7.2": 400, "7.3-preview": 200, "7.3": 200, "2025-07-01": 200}


async def test_states_of_a_key(cloud: Client) -> None:
    """Disabled blocks release; outside nbf and exp it still works; a key without policy is never released."""
    token = await cloud.token(WRAPPING)
    times = Attributes(exportable=True, nbf=4_000_000_000, exp=1)
    request = ImportRequest(OCT, True, times, release_policy=PolicyEnvelope.of(policy(cloud)))
    await cloud.keys("mhsm", "PUT", "/keys/disk", request.to_bytes())
    assert (await cloud.release("mhsm", "disk", token)).status_code == 200
    off = UpdateRequest(attributes=Attributes(enabled=False)).to_bytes()
    assert (await cloud.keys("mhsm", "PATCH", "/keys/disk", off)).json()["attributes"]["enabled"] is False
    assert error(await cloud.release("mhsm", "disk", token))[:2] == (403, "Forbidden")
    await cloud.keys("mhsm", "PUT", "/keys/plain", ImportRequest(OCT).to_bytes())
    assert error(await cloud.release("mhsm", "plain", token))[:2] == (400, "BadParameter")


async def test_token_without_a_wrapping_key(cloud: Client) -> None:
    await cloud.imported("mhsm", "disk", OCT, policy(cloud))
    processor = cloud.cloud.processor
    sign_only = WRAPPING.jwk.to_dict() | {"key_ops": ["sign"]}
    for runtime in (b'{"user":1}', json.dumps({"keys": [sign_only]}).encode(), b'{"keys":[{"kty":"oct"}]}'):
        request = AttestRequest(
            processor.sign_report(report_data_for(runtime)), processor.chain.to_pem(), runtime
        )
        path = "/attest/SevSnpVm?api-version=2022-08-01"
        token = (await cloud.call("maa", "POST", path, content=build_attest_request(request))).json()["token"]
        assert error(await cloud.release("mhsm", "disk", token))[:2] == (400, "BadParameter")


async def test_first_fitting_key_of_the_token_is_used(cloud: Client) -> None:
    """A signing key before it is passed over; `use` counts like `key_ops`."""
    await cloud.imported("mhsm", "disk", OCT, policy(cloud))
    processor, other = cloud.cloud.processor, pki.wrapping_key("other")
    first = other.jwk.to_dict() | {"key_ops": ["sign"]}
    second = {n: v for n, v in WRAPPING.jwk.to_dict().items() if n != "key_ops"} | {"use": "enc"}
    runtime = json.dumps({"keys": [first, second, other.jwk.to_dict()]}).encode()
    request = AttestRequest(
        processor.sign_report(report_data_for(runtime)), processor.chain.to_pem(), runtime
    )
    path = "/attest/SevSnpVm?api-version=2022-08-01"
    token = (await cloud.call("maa", "POST", path, content=build_attest_request(request))).json()["token"]
    cloud.opened("mhsm", "disk", await cloud.release("mhsm", "disk", token), WRAPPING)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"target":5}', b"\xff"])
async def test_unreadable_release_requests(cloud: Client, body: bytes) -> None:
    await cloud.imported("mhsm", "disk", OCT, policy(cloud))
    assert error(await cloud.keys("mhsm", "POST", "/keys/disk/release", body))[:2] == (400, "BadParameter")


# -- throttling -----------------------------------------------------------------------------------


async def test_vault_throttles_create_and_release_together(start_cloud: Any) -> None:
    async with start_cloud() as cloud:
        await cloud.imported("akv", "disk", RSA, policy(cloud))
        token = await cloud.token(WRAPPING)
        for index in range(5):
            assert (await cloud.keys("akv", "POST", f"/keys/k{index}/create", EC_BODY)).status_code == 200
        statuses = [(await cloud.release("akv", "disk", token)).status_code for _ in range(6)]
        assert statuses == [200] * 5 + [429]
        assert error(await cloud.release("akv", "disk", token))[1] == "Throttled"
        software = CreateRequest("EC", crv="P-256").to_bytes()
        assert (await cloud.keys("akv", "POST", "/keys/soft/create", software)).status_code == 200
        assert (await cloud.keys("akv", "GET", "/keys/disk")).status_code == 200


@pytest.mark.parametrize(("service", "settings"), [("mhsm", {}), ("akv", {"throttled": False})])
async def test_what_is_not_throttled(start_cloud: Any, service: str, settings: dict[str, bool]) -> None:
    async with start_cloud(**settings) as cloud:
        await cloud.imported(service, "disk", RSA, policy(cloud))
        token = await cloud.token(WRAPPING)
        statuses = {(await cloud.release(service, "disk", token)).status_code for _ in range(15)}
        assert statuses == {200}


# -- soft delete ----------------------------------------------------------------------------------


async def test_deleted_key_comes_back_whole(cloud: Client) -> None:
    before = await cloud.imported("mhsm", "disk", OCT, policy(cloud))
    deleted = (await cloud.keys("mhsm", "DELETE", "/keys/disk")).json()
    assert deleted["recoveryId"] == f"{cloud.cloud.url('mhsm')}/deletedkeys/disk"
    assert deleted["scheduledPurgeDate"] - deleted["deletedDate"] == 7 * 86400
    assert deleted["key"] == before["key"]
    token = await cloud.token(WRAPPING)
    assert error(await cloud.release("mhsm", "disk", token))[0] == 404
    status, code, _ = error(await cloud.keys("mhsm", "PUT", "/keys/disk", ImportRequest(OCT).to_bytes()))
    assert (status, code) == (409, "Conflict")
    assert (await cloud.keys("mhsm", "POST", "/deletedkeys/disk/recover")).status_code == 200
    assert (await cloud.keys("mhsm", "GET", "/keys/disk")).json() == before
    assert (await cloud.release("mhsm", "disk", token)).status_code == 200


async def test_time_purges(start_cloud: Any) -> None:
    now = [datetime.now(UTC)]
    async with start_cloud(clock=lambda: now[0]) as cloud:
        await cloud.keys("akv", "POST", "/keys/disk/create", EC_BODY)
        await cloud.keys("akv", "DELETE", "/keys/disk")
        now[0] += timedelta(days=6, hours=23)
        assert (await cloud.keys("akv", "GET", "/deletedkeys/disk")).status_code == 200
        now[0] += timedelta(hours=2)
        assert (await cloud.keys("akv", "GET", "/deletedkeys/disk")).status_code == 404
        assert (await cloud.keys("akv", "POST", "/keys/disk/create", EC_BODY)).status_code == 200


async def test_immutable_policy_outlives_a_new_version(cloud: Client) -> None:
    fixed = PolicyEnvelope.of(policy(cloud), immutable=True)
    first = ImportRequest(OCT, True, Attributes(exportable=True), release_policy=fixed)
    assert (await cloud.keys("mhsm", "PUT", "/keys/disk", first.to_bytes())).status_code == 200
    weaker = PolicyEnvelope.of(build_policy([cloud.cloud.url("maa")], [[("x-ms-ver", "1.0")]]))
    second = ImportRequest(OCT, True, Attributes(exportable=True), release_policy=weaker)
    answer = error(await cloud.keys("mhsm", "PUT", "/keys/disk", second.to_bytes()))
    assert answer[2].startswith("Immutable Key Release Policy cannot be modified.")
    update = UpdateRequest(release_policy=weaker)
    assert (await cloud.keys("mhsm", "PATCH", "/keys/disk", update.to_bytes())).status_code == 400
