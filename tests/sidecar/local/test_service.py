"""What happens around handlers: routing, refusals, and every scripted fault over real sockets."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import httpx
import pytest
import trio
from fakes import pki
from fakes.localcloud import RESOURCE, error

from sidecar.errors import MalformedInput
from sidecar.jose import parse_jws, payload_object
from sidecar.jwk import jwk_of_secret
from sidecar.local.faults import FaultScript
from sidecar.local.refusal import Refusal
from sidecar.local.service import Service, shifted
from sidecar.releasepolicy import build_policy
from sidecar.web import Router, WebRequest, WebResponse, json_response

OCT = jwk_of_secret(bytes(32), kty="oct-HSM")
WRAPPING = pki.wrapping_key()


async def ok(request: WebRequest) -> WebResponse:
    return json_response({"flags": sorted(request.flags)})


async def refuses(request: WebRequest) -> WebResponse:
    raise Refusal(409, "Conflict", "no", inner="Inner", headers={"x": "y"})


async def unreadable(request: WebRequest) -> WebResponse:
    raise MalformedInput("thing: broken")


def service(*faults: str) -> Service:
    router = Router()
    router.add("ok", "GET", "/ok", ok)
    router.add("put", "PUT", "/ok", ok)
    router.add("refuses", "GET", "/refuses", refuses)
    router.add("unreadable", "GET", "/unreadable", unreadable)
    return Service("akv", router, FaultScript.parse(faults))


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/ok", 200, b'{"flags":[]}'),
        (
            "GET",
            "/refuses",
            409,
            b'{"error":{"code":"Conflict","message":"no","innererror":{"code":"Inner"}}}',
        ),
        ("GET", "/unreadable", 400, b'{"error":{"code":"BadParameter","message":"thing: broken"}}'),
        ("GET", "/other", 404, None),
        ("POST", "/ok", 405, None),
    ],
)
async def test_answers(method: str, path: str, status: int, body: bytes | None) -> None:
    answer = await service()(WebRequest(method, path))
    assert answer.status == status
    assert body is None or answer.body == body
    if status == 405:
        assert answer.headers["allow"] == "GET, PUT"


async def test_method_in_a_header() -> None:
    assert (await service()(WebRequest("POST", "/ok", headers={"x-http-method": "PUT"}))).status == 200
    assert (await service()(WebRequest("POST", "/ok", headers={"x-http-method": "GET"}))).status == 405


async def test_log_line_has_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"authorization": "Bearer hunter2"}
    await service()(WebRequest("GET", "/refuses", {"q": "hunter2"}, headers, b"hunter2"))
    assert "akv refuses: 409 Inner" in caplog.text
    assert "hunter2" not in caplog.text


async def test_faults_of_a_script(autojump_clock: trio.testing.MockClock) -> None:
    run = service(
        "akv/ok:status=429,retry-after=7,times=1", "akv/ok:delay=30,times=2", "akv/ok:expired,times=3"
    )
    first = await run(WebRequest("GET", "/ok"))
    assert (first.status, first.headers) == (429, {"retry-after": "7"})
    start = trio.current_time()
    assert (await run(WebRequest("GET", "/ok"))).status == 200
    assert trio.current_time() - start == pytest.approx(30)
    assert (await run(WebRequest("GET", "/ok"))).body == b'{"flags":["expired"]}'
    assert (await run(WebRequest("GET", "/ok"))).body == b'{"flags":[]}'


def test_clock_of_one_service_is_off() -> None:
    faults = FaultScript.parse(["maa:clock=-600"])
    assert shifted(lambda: pki.NOW, faults, "maa")() == pki.NOW - timedelta(seconds=600)
    assert shifted(lambda: pki.NOW, faults, "akv")() == pki.NOW


# -- over real sockets ----------------------------------------------------------------------------


async def ready(client: Any) -> str:
    policy = build_policy([client.cloud.url("maa")], [[("x-ms-attestation-type", "sevsnpvm")]])
    await client.imported("mhsm", "disk", OCT, policy)
    return str(await client.token(WRAPPING))


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 503])
async def test_statuses(start_cloud: Any, status: int) -> None:
    async with start_cloud(faults=(f"mhsm/release:status={status},retry-after=1,times=1",)) as client:
        token = await ready(client)
        answer = await client.release("mhsm", "disk", token)
        assert answer.status_code == status
        assert answer.headers["retry-after"] == "1"
        if status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer authorization=")
        else:
            assert "asked for by a fault script" in error(answer)[2]
        assert (await client.release("mhsm", "disk", token)).status_code == 200


async def test_role_that_is_missing(start_cloud: Any) -> None:
    async with start_cloud(faults=("akv/get:status=403,inner=ForbiddenByRbac",)) as client:
        answer = await client.keys("akv", "GET", "/keys/disk")
        assert answer.json()["error"]["innererror"] == {"code": "ForbiddenByRbac"}


@pytest.mark.parametrize("cut", [0, 10, 500])
async def test_cut_bodies(start_cloud: Any, cut: int) -> None:
    async with start_cloud(faults=(f"mhsm/release:cut={cut},times=1",)) as client:
        token = await ready(client)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.release("mhsm", "disk", token)
        assert (await client.release("mhsm", "disk", token)).status_code == 200


async def test_latency_is_seen_by_a_client_with_a_deadline(start_cloud: Any) -> None:
    async with start_cloud(faults=("maa/certs:delay=5,times=1",)) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.call("maa", "GET", "/certs", timeout=0.2)
        assert (await client.call("maa", "GET", "/certs")).status_code == 200


async def test_expired_access_token(start_cloud: Any) -> None:
    async with start_cloud(faults=("imds/token:expired,times=1",)) as client:
        answer = await client.keys("akv", "GET", "/keys")
        assert answer.status_code == 401
        assert "expired" in error(answer)[2]
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert (await client.keys("akv", "GET", "/keys")).status_code == 200


async def test_expired_attestation_token(start_cloud: Any) -> None:
    async with start_cloud(faults=("maa/attest:expired,times=1",)) as client:
        token = await ready(client)
        assert error(await client.release("mhsm", "disk", token))[:2] == (403, "Forbidden")
        assert (await client.release("mhsm", "disk", await client.token(WRAPPING))).status_code == 200


async def test_authority_whose_clock_is_ahead(start_cloud: Any) -> None:
    async with start_cloud(faults=("maa:clock=+600",)) as client:
        token = await ready(client)
        claims = payload_object(parse_jws(token))
        assert error(await client.release("mhsm", "disk", token))[0] == 403
    async with start_cloud("other", faults=("*:clock=+600",)) as client:
        token = await ready(client)
        assert payload_object(parse_jws(token))["iat"] >= claims["iat"]  # type: ignore[operator]
        assert (await client.release("mhsm", "disk", token)).status_code == 200


async def test_wrong_audience_is_named(start_cloud: Any) -> None:
    async with start_cloud() as client:
        token = await client.access_token(RESOURCE["mhsm"])
        answer = await client.call(
            "akv", "GET", "/keys?api-version=7.4", headers={"authorization": f"Bearer {token}"}
        )
        status, code, message = error(answer)
        assert (status, code) == (401, "Unauthorized")
        assert message.startswith("AKV10022: access token: audience 'https://managedhsm.azure.net'")
