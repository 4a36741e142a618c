"""The whole flow over real sockets: evidence, token, release; and every refusal said in words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes.localcloud import Client

from sidecar.akv import parse_key_ref
from sidecar.app import App
from sidecar.attesting import Attester, WrappingKeys
from sidecar.client import ReleaseSettings, open_guest, release
from sidecar.errors import HostNotAllowed, ReleaseRefused, SidecarError
from sidecar.jwk import Jwk, jwk_of_secret
from sidecar.release import attest, release_key
from sidecar.releasepolicy import build_policy
from sidecar.services import Services, open_services
from sidecar.strictjson import load_object
from sidecar.web import WebRequest

KEY = bytes(range(32))
HOST_DATA = "x-ms-sevsnpvm-hostdata"
NO_POLICY = "00" * 32


def oct_key() -> Jwk:
    return jwk_of_secret(KEY, kty="oct-HSM", key_ops=("encrypt", "decrypt"))


async def imported(cloud: Client, *, service: str = "mhsm", **claims: Any) -> None:
    """Import the key `data` under a policy with these claims (underscores stand for dashes)."""
    wanted = {name.replace("_", "-"): value for name, value in claims.items()}
    policy = build_policy([cloud.cloud.url("maa")], [list(wanted.items())])
    await cloud.imported(service, "data", oct_key(), policy)


@asynccontextmanager
async def services_of(cloud: Client) -> AsyncIterator[tuple[Services, dict[str, str]]]:
    environ = dict(cloud.cloud.environment)
    async with open_services(environ) as services:
        yield services, environ


async def test_release(here: Client) -> None:
    await imported(here, **{HOST_DATA: NO_POLICY})
    environ = here.cloud.environment
    settings = ReleaseSettings(environ["MAA_ENDPOINT"], environ["MHSM_ENDPOINT"], "data")
    released = await release(settings, environ)
    assert released.kty == "oct"
    assert parse_key_ref("data").is_met_by(released.ref)
    jwk = released.jwk()
    assert jwk["k"] == "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    assert "AAECAwQ" not in repr(released)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({HOST_DATA: "ab" * 32}, [HOST_DATA, NO_POLICY, "ab" * 32]),
        ({"x-ms-sevsnpvm-is-debuggable": "true"}, ["x-ms-sevsnpvm-is-debuggable", "wanted true"]),
        ({"x-ms-sevsnpvm-vmpl": "3", HOST_DATA: "ab" * 32}, ["x-ms-sevsnpvm-vmpl", HOST_DATA]),
        ({"x-ms-no-such-claim": "1"}, ["x-ms-no-such-claim", "absent"]),
    ],
)
async def test_refusal_names_the_claim(here: Client, claims: dict[str, str], words: list[str]) -> None:
    await imported(here, **claims)
    environ = here.cloud.environment
    settings = ReleaseSettings(environ["MAA_ENDPOINT"], environ["MHSM_ENDPOINT"], "data")
    with pytest.raises(ReleaseRefused) as caught:
        await release(settings, environ)
    for word in words:
        assert word in str(caught.value)


async def test_no_such_key(here: Client) -> None:
    async with services_of(here) as (services, environ):
        guest = await open_guest(services.http, environ)
        authority = services.authority(environ["MAA_ENDPOINT"])
        vault = services.vault(environ["MHSM_ENDPOINT"])
        with pytest.raises(ReleaseRefused, match="404") as caught:
            await release_key(guest, authority, vault, parse_key_ref("nothing"))
        assert "name" in caught.value.hint


async def test_a_stranger_is_refused_before_a_token_is_fetched(here: Client) -> None:
    async with services_of(here) as (services, _):
        for name in ("evil.example", "localhost:1", "v.vault.azure.net"):
            with pytest.raises(HostNotAllowed):
                services.vault(name)
        assert not services.tokens._tokens  # type: ignore[attr-defined]


async def test_the_token_is_verified_here(start_cloud: Any, quiet: None) -> None:
    """An authority whose clock is off issues tokens that we refuse, although it signed them."""
    async with start_cloud(faults=("maa:clock=-90000",)) as cloud, services_of(cloud) as (services, environ):
        guest = await open_guest(services.http, environ)
        with pytest.raises(SidecarError):
            await attest(guest, services.authority(environ["MAA_ENDPOINT"]), b'{"a": 1}')


async def test_runtime_data_must_be_json(here: Client) -> None:
    async with services_of(here) as (services, environ):
        guest = await open_guest(services.http, environ)
        with pytest.raises(SidecarError, match="runtime data"):
            await attest(guest, services.authority(environ["MAA_ENDPOINT"]), b"not json")


@asynccontextmanager
async def app_of(cloud: Client) -> AsyncIterator[App]:
    import trio

    async with services_of(cloud) as (services, environ), trio.open_nursery() as nursery:
        keys = WrappingKeys()
        guest = await open_guest(services.http, environ)
        app = App(guest, services, Attester(guest, keys), keys)
        nursery.start_soon(keys.keep_making)
        await app.check_ready()
        yield app
        nursery.cancel_scope.cancel()


async def post(app: App, path: str, body: object) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await app(WebRequest("POST", path, body=data))
    return answer.status, load_object(answer.body)


async def test_http_contract(here: Client) -> None:
    await imported(here, **{HOST_DATA: NO_POLICY})
    environ = here.cloud.environment
    maa, hsm = environ["MAA_ENDPOINT"], environ["MHSM_ENDPOINT"]
    async with app_of(here) as app:
        status = await app(WebRequest("GET", "/status"))
        assert (status.status, load_object(status.body)) == (200, {"message": "Status OK"})
        # Both base64 alphabets, with and without padding: fb f0 in either spelling.
        for text in ("+/A=", "-_A=", "-_A"):
            code, body = await post(app, "/attest/raw", {"runtime_data": text})
            assert code == 200
            assert len(body["report"]) == 2368
        code, body = await post(app, "/attest/combined", {"runtime_data": "aGk="})
        assert code == 200
        assert body.keys() == {"endorsed_tcb", "endorsements", "evidence", "uvm_endorsements"}
        code, body = await post(app, "/attest/maa", {"maa_endpoint": maa, "runtime_data": "eyJhIjoxfQ=="})
        assert (code, body["token"].count(".")) == (200, 2)
        code, body = await post(
            app, "/key/release", {"maa_endpoint": maa, "akv_endpoint": hsm, "kid": "data"}
        )
        assert code == 200
        assert json.loads(body["key"])["kty"] == "oct"


async def test_http_errors(here: Client) -> None:
    await imported(here, **{HOST_DATA: "ab" * 32})
    environ = here.cloud.environment
    maa, hsm = environ["MAA_ENDPOINT"], environ["MHSM_ENDPOINT"]
    good = {"maa_endpoint": maa, "akv_endpoint": hsm, "kid": "data"}
    cases: list[tuple[str, object, int, str]] = [
        ("/attest/raw", b"", 400, "request"),
        ("/attest/raw", b"[]", 400, "request"),
        ("/attest/raw", {}, 400, "runtime_data"),
        ("/attest/raw", {"runtime_data": ""}, 400, "runtime_data"),
        ("/attest/raw", {"runtime_data": "***"}, 400, "runtime_data"),
        ("/attest/raw", {"runtime_data": 5}, 400, "runtime_data"),
        ("/attest/maa", {"maa_endpoint": maa, "runtime_data": "aGk="}, 400, "runtime_data"),
        ("/attest/maa", {"maa_endpoint": "https://x", "runtime_data": "e30="}, 400, "host"),
        ("/attest/maa", {"maa_endpoint": "evil.example", "runtime_data": "e30="}, 403, "not allowed"),
        ("/key/release", good | {"akv_endpoint": "evil.example"}, 403, "not allowed"),
        ("/key/release", good | {"kid": "../secrets/x"}, 400, "key"),
        ("/key/release", good | {"kid": "nothing"}, 403, "404"),
        ("/key/release", good, 403, HOST_DATA),
        ("/key/release", good | {"access_token": "not-a-token"}, 403, "401"),
        ("/nowhere", {}, 404, "address"),
        ("/status", {}, 405, "POST"),
    ]
    async with app_of(here) as app:
        for path, body, code, words in cases:
            seen, answer = await post(app, path, body)
            assert (seen, answer.keys()) == (code, {"error"}), (path, body, answer)
            assert words in answer["error"], (path, body, answer)
