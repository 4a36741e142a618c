"""IMDS, THIM, the key service and the token endpoint: shapes, and the error tables of their documents."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography import x509
from fakes.localcloud import Client

from sidecar.jose import parse_jws, payload_object
from sidecar.local.sts import ASSERTION_TYPE
from sidecar.snp.certs import parse_chain_pem, parse_thim

HEADER = {"Metadata": "true"}
TOKEN = "/metadata/identity/oauth2/token"
GOOD = {"api-version": "2018-02-01", "resource": "https://vault.azure.net"}


# -- IMDS -----------------------------------------------------------------------------------------


async def test_every_value_is_a_string(cloud: Client) -> None:
    answer = await cloud.call("imds", "GET", TOKEN, params=GOOD, headers=HEADER)
    body = answer.json()
    assert all(isinstance(value, str) for value in body.values())
    assert body["expires_in"] == "3600"
    assert int(body["expires_on"]) - int(body["not_before"]) == 3600
    assert (body["resource"], body["token_type"], body["refresh_token"]) == (GOOD["resource"], "Bearer", "")
    claims = payload_object(parse_jws(body["access_token"]))
    assert claims["aud"] == GOOD["resource"]
    assert claims["appid"] == body["client_id"]


@pytest.mark.parametrize(
    ("query", "headers", "code"),
    [
        (GOOD, {}, "bad_request_102"),
        (GOOD, {"Metadata": "True"}, "bad_request_102"),
        ({"resource": GOOD["resource"]}, HEADER, "invalid_request"),
        ({"api-version": "2018-02-01"}, HEADER, "invalid_resource"),
        (GOOD | {"resource": "vault"}, HEADER, "invalid_resource"),
        (GOOD | {"client_id": "00000000-0000-0000-0000-000000000000"}, HEADER, "invalid_request"),
    ],
)
async def test_imds_errors(cloud: Client, query: Any, headers: Any, code: str) -> None:
    answer = await cloud.call("imds", "GET", TOKEN, params=query, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"] == code
    assert answer.json()["error_description"]


async def test_imds_script(start_cloud: Any) -> None:
    faults = (
        "imds/token:status=410,times=1",
        "imds/token:status=404,after=1,times=1",
        "imds/thim:status=500,times=1",
    )
    async with start_cloud(faults=faults) as cloud:
        statuses = [
            (await cloud.call("imds", "GET", TOKEN, params=GOOD, headers=HEADER)).status_code
            for _ in range(3)
        ]
        assert statuses == [410, 404, 200]


# -- THIM and the key service ---------------------------------------------------------------------


async def test_thim_serves_the_processors_certificates(cloud: Client) -> None:
    path = "/metadata/THIM/amd/certification"
    assert (await cloud.call("imds", "GET", path)).status_code == 400
    collateral = parse_thim((await cloud.call("imds", "GET", path, headers=HEADER)).content)
    assert collateral.chain == cloud.cloud.processor.chain
    assert collateral.tcbm == cloud.cloud.processor.tcb.number


async def test_key_service(cloud: Client) -> None:
    processor = cloud.cloud.processor
    levels = processor.tcb.components
    query = {"blSPL": levels["boot_loader"], "teeSPL": levels["tee"]}
    query |= {"snpSPL": levels["snp"], "ucodeSPL": levels["microcode"]}
    path = f"/vcek/v1/Milan/{processor.chip_id.hex()}"
    answer = await cloud.call("kds", "GET", path, params=query)
    leaf = x509.load_der_x509_certificate(answer.content)
    assert leaf.public_key() == processor.vcek.public_key()
    other = await cloud.call("kds", "GET", path, params=query | {"ucodeSPL": 1})
    assert x509.load_der_x509_certificate(other.content).public_key() != leaf.public_key()
    pem = (await cloud.call("kds", "GET", "/vcek/v1/Milan/cert_chain")).content
    assert x509.load_pem_x509_certificates(pem) == [processor.ask, processor.ark]


async def test_certificate_cache(cloud: Client) -> None:
    processor = cloud.cloud.processor
    path = f"/SevSnpVM/certificates/{processor.chip_id.hex()}/{processor.tcb.number:x}"
    answer = await cloud.call(
        "kds", "GET", path, params={"api-version": "2020-10-15-preview", "clientId": "x"}
    )
    assert parse_chain_pem(answer.content).leaf.public_key() == processor.vcek.public_key()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/vcek/v1/Genoa/cert_chain", 404),
        (f"/vcek/v1/Milan/{'0' * 128}?blSPL=1&teeSPL=0&snpSPL=1&ucodeSPL=1", 404),
        ("/vcek/v1/Milan/CHIP", 400),
        ("/vcek/v1/Milan/CHIP?blSPL=256&teeSPL=0&snpSPL=1&ucodeSPL=1", 400),
        ("/SevSnpVM/certificates/CHIP/zz", 400),
        ("/SevSnpVM/certificates/CHIP/" + "f" * 17, 400),
    ],
)
async def test_key_service_errors(cloud: Client, path: str, status: int) -> None:
    path = path.replace("CHIP", cloud.cloud.processor.chip_id.hex())
    assert (await cloud.call("kds", "GET", path)).status_code == status


# -- the token endpoint ---------------------------------------------------------------------------


async def exchange(cloud: Client, **changes: str) -> Any:
    settings = cloud.cloud.workload_environment
    form = {
        "grant_type": "client_credentials",
        "client_id": settings["AZURE_CLIENT_ID"],
        "scope": "https://vault.azure.net/.default",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": (cloud.cloud.ca_file.parent / "workload.token").read_text(),
    } | changes
    path = f"/{settings['AZURE_TENANT_ID']}/oauth2/v2.0/token"
    return await cloud.call("sts", "POST", path, content=urlencode(form))


async def test_exchange(cloud: Client) -> None:
    body = (await exchange(cloud)).json()
    assert body["expires_in"] == 3600
    assert body["token_type"] == "Bearer"
    claims = payload_object(parse_jws(body["access_token"]))
    assert claims["aud"] == "https://vault.azure.net"
    assert claims["oid"] == cloud.cloud.identities[0].object_id


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"client_assertion_type": "x"}, 400, "invalid_request"),
        ({"client_id": "other"}, 400, "unauthorized_client"),
        ({"scope": "https://vault.azure.net"}, 400, "invalid_scope"),
        ({"client_assertion": "x"}, 401, "invalid_client"),
    ],
)
async def test_exchange_refused(cloud: Client, changes: dict[str, str], status: int, code: str) -> None:
    answer = await exchange(cloud, **changes)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert all(isinstance(n, int) for n in answer.json()["error_codes"])


async def test_access_token_is_no_assertion(cloud: Client) -> None:
    """Signed by the tenant, not by the cluster, and for another audience."""
    stolen = await cloud.access_token("https://vault.azure.net")
    assert (await exchange(cloud, client_assertion=stolen)).status_code == 401


async def test_discovery(cloud: Client) -> None:
    tenant = cloud.cloud.workload_environment["AZURE_TENANT_ID"]
    document = (await cloud.call("sts", "GET", f"/{tenant}/v2.0/.well-known/openid-configuration")).json()
    assert document["token_endpoint"] == f"{cloud.cloud.url('sts')}/{tenant}/oauth2/v2.0/token"
    keys = (await cloud.call("sts", "GET", f"/{tenant}/discovery/v2.0/keys")).json()
    token = await cloud.access_token("https://vault.azure.net")
    assert parse_jws(token).kid == keys["keys"][0]["kid"]
    answer = await cloud.call("sts", "GET", "/other-tenant/v2.0/.well-known/openid-configuration")
    assert answer.status_code == 400
