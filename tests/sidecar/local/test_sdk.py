"""Fidelity: the vendor's own client libraries work against the cloud in a box, unmodified.

`azure-keyvault-keys` and `azure-identity` are written by people who have never seen this service. What they
accept here they accept from Azure. The only concessions are public options: the CA file, and
`verify_challenge_resource=False`, for vaults whose host name does not end in the resource's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest
import trio
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import ManagedIdentityCredential, WorkloadIdentityCredential
from azure.keyvault.keys import JsonWebKey, KeyClient, KeyReleasePolicy, KeyVaultKey
from fakes import pki
from fakes.localcloud import Client

from sidecar.jose import parse_jws, payload_object
from sidecar.jwk import Jwk, jwk_of_private, jwk_of_secret
from sidecar.releasepolicy import build_policy

T = TypeVar("T")
RSA = jwk_of_private(pki.rsa_key("released"), kty="RSA-HSM", key_ops=("sign", "verify"))
EC = jwk_of_private(pki.ec_key("P-384"), kty="EC-HSM", key_ops=("sign", "verify"))
OCT = jwk_of_secret(bytes(range(32)), kty="oct-HSM", key_ops=("wrapKey", "unwrapKey"))
WRAPPING = pki.wrapping_key()


async def blocking(call: Callable[[], T]) -> T:
    """The libraries block: they run in a thread, the cloud on the event loop."""
    return await trio.to_thread.run_sync(call)


@pytest.fixture
def managed_identity(monkeypatch: pytest.MonkeyPatch) -> Callable[[Client], ManagedIdentityCredential]:
    def make(cloud: Client, **options: Any) -> ManagedIdentityCredential:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", cloud.cloud.url("imds"))
        return ManagedIdentityCredential(**options)

    return make


def key_client(cloud: Client, service: str, credential: Any) -> KeyClient:
    return KeyClient(
        cloud.cloud.url(service),
        credential,
        verify_challenge_resource=False,
        connection_verify=str(cloud.cloud.ca_file),
        retry_total=0,
    )


def json_web_key(key: Jwk) -> JsonWebKey:
    members = {**key.numbers, **key.secret}
    return JsonWebKey(kty=key.kty, key_ops=list(key.key_ops), crv=key.crv or None, **members)


def policy(cloud: Client) -> KeyReleasePolicy:
    claims = [("x-ms-attestation-type", "sevsnpvm"), ("x-ms-sevsnpvm-is-debuggable", "false")]
    return KeyReleasePolicy(build_policy([cloud.cloud.url("maa")], [claims]).to_bytes())


@pytest.mark.parametrize(
    ("service", "key"), [("akv", RSA), ("akv", EC), ("mhsm", OCT), ("mhsm", RSA), ("mhsm", EC)]
)
async def test_import_get_list_release(cloud: Client, managed_identity: Any, service: str, key: Jwk) -> None:
    """The round that the issue asks for, with the released key opened by our own client code."""
    with managed_identity(cloud) as credential, key_client(cloud, service, credential) as client:
        imported: KeyVaultKey = await blocking(
            lambda: client.import_key(
                "disk",
                json_web_key(key),
                hardware_protected=True,
                exportable=True,
                release_policy=policy(cloud),
                tags={"volume": "1"},
            )
        )
        got = await blocking(lambda: client.get_key("disk"))
        listed = await blocking(lambda: list(client.list_properties_of_keys()))
        versions = await blocking(lambda: list(client.list_properties_of_key_versions("disk")))
        token = await cloud.token(WRAPPING)
        released = await blocking(
            lambda: client.release_key("disk", token, algorithm="RSA_AES_KEY_WRAP_256", nonce="n1")
        )
    assert imported.id == got.id == versions[0].id
    assert imported.key_type == key.kty
    assert imported.key_operations == list(key.key_ops)
    assert got.properties.exportable is True
    assert got.properties.enabled is True
    assert got.properties.tags == {"volume": "1"}
    assert got.properties.recovery_level == "CustomizedRecoverable+Purgeable"
    assert got.properties.recoverable_days == 7
    assert got.properties.created_on is not None
    assert got.properties.release_policy is not None
    assert json.loads(got.properties.release_policy.encoded_policy)["anyOf"][0]["authority"]
    assert got.properties.release_policy.immutable is False
    assert got.key.k is None
    assert got.key.d is None
    assert [(p.name, p.version) for p in listed] == [("disk", None)]
    payload: Any = payload_object(parse_jws(released.value))
    assert payload["request"]["nonce"] == "n1"
    answer = await cloud.release(service, "disk", token)
    opened = cloud.opened(service, "disk", answer, WRAPPING)
    assert opened.kid == imported.id
    assert opened.jwk() == key.to_dict(private=True) | {"kty": key.family}


async def test_pages_are_followed(cloud: Client, managed_identity: Any) -> None:
    with managed_identity(cloud) as credential, key_client(cloud, "mhsm", credential) as client:
        for index in range(7):
            await blocking(partial(client.create_oct_key, f"key-{index}", size=256))
        pages = await blocking(
            lambda: [len(list(page)) for page in client.list_properties_of_keys(max_page_size=3).by_page()]
        )
        names = await blocking(lambda: [p.name for p in client.list_properties_of_keys(max_page_size=2)])
    assert pages == [3, 3, 1]
    assert names == [f"key-{index}" for index in range(7)]


async def test_delete_recover_purge(cloud: Client, managed_identity: Any) -> None:
    with managed_identity(cloud) as credential, key_client(cloud, "akv", credential) as client:
        made = await blocking(lambda: client.create_ec_key("disk", curve="P-256"))
        poller = await blocking(lambda: client.begin_delete_key("disk"))
        deleted = poller.result()
        assert deleted.recovery_id == f"{cloud.cloud.url('akv')}/deletedkeys/disk"
        assert deleted.scheduled_purge_date > deleted.deleted_date
        with pytest.raises(ResourceNotFoundError):
            await blocking(lambda: client.get_key("disk"))
        with pytest.raises(ResourceExistsError) as caught:
            await blocking(lambda: client.create_rsa_key("disk"))
        assert caught.value.error.innererror["code"] == "ObjectIsDeletedButRecoverable"
        assert [k.name for k in await blocking(lambda: list(client.list_deleted_keys()))] == ["disk"]
        await blocking(lambda: client.begin_recover_deleted_key("disk").result())
        assert (await blocking(lambda: client.get_key("disk"))).id == made.id
        await blocking(lambda: client.begin_delete_key("disk").result())
        await blocking(lambda: client.purge_deleted_key("disk"))
        with pytest.raises(ResourceNotFoundError):
            await blocking(lambda: client.get_deleted_key("disk"))
        again = await blocking(lambda: client.create_rsa_key("disk"))
        assert again.key_type == "RSA"


async def test_update(cloud: Client, managed_identity: Any) -> None:
    with managed_identity(cloud) as credential, key_client(cloud, "akv", credential) as client:
        made = await blocking(lambda: client.create_rsa_key("disk", tags={"a": "1"}))
        changed = await blocking(
            lambda: client.update_key_properties(
                "disk", enabled=False, tags={"b": "2"}, key_operations=["sign"]
            )
        )
    assert changed.id == made.id
    assert changed.properties.enabled is False
    assert changed.properties.tags == {"b": "2"}
    assert changed.key_operations == ["sign"]
    assert changed.properties.updated_on >= made.properties.updated_on


async def test_refusals_arrive_as_the_librarys_errors(cloud: Client, managed_identity: Any) -> None:
    with managed_identity(cloud) as credential, key_client(cloud, "akv", credential) as client:
        with pytest.raises(HttpResponseError) as caught:
            await blocking(
                lambda: client.import_key("disk", json_web_key(RSA), hardware_protected=True, exportable=True)
            )
        assert caught.value.status_code == 400
        assert caught.value.error.code == "BadParameter"
        assert "AKV.SKR.1004: Exportable keys must have release policy." in caught.value.message
        await blocking(
            lambda: client.import_key(
                "disk",
                json_web_key(RSA),
                hardware_protected=True,
                exportable=True,
                release_policy=policy(cloud),
            )
        )
        debuggable = await cloud.token(WRAPPING, policy=0x3001F | 1 << 19)
        with pytest.raises(HttpResponseError) as caught:
            await blocking(lambda: client.release_key("disk", debuggable))
        assert caught.value.status_code == 403
        assert caught.value.error.code == "Forbidden"
        assert "does not meet key release policy requirements" in caught.value.message


async def test_token_for_the_other_service_is_refused(cloud: Client, managed_identity: Any) -> None:
    """A token for the vault does not open the managed HSM; the library asks again and then gives up."""

    class Stubborn:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def get_token(self, *scopes: str, **options: Any) -> Any:
            return self._inner.get_token("https://vault.azure.net/.default")

    with (
        managed_identity(cloud) as credential,
        key_client(cloud, "mhsm", Stubborn(credential)) as client,
        pytest.raises(ClientAuthenticationError),
    ):
        await blocking(lambda: client.get_key("disk"))


async def test_workload_identity(cloud: Client) -> None:
    """A projected token is exchanged at the local tenant's endpoint, over TLS, and opens the vault."""
    settings = cloud.cloud.workload_environment
    with (
        WorkloadIdentityCredential(
            tenant_id=settings["AZURE_TENANT_ID"],
            client_id=settings["AZURE_CLIENT_ID"],
            token_file_path=settings["AZURE_FEDERATED_TOKEN_FILE"],
            authority=settings["AZURE_AUTHORITY_HOST"],
            disable_instance_discovery=True,
            connection_verify=str(cloud.cloud.ca_file),
        ) as credential,
        key_client(cloud, "akv", credential) as client,
    ):
        assert (await blocking(lambda: client.create_rsa_key("disk"))).name == "disk"


async def test_one_of_several_identities_must_be_named(
    start_cloud: Any, managed_identity: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with start_cloud(identities=2) as cloud:
        with managed_identity(cloud) as credential, pytest.raises(ClientAuthenticationError):
            await blocking(lambda: credential.get_token("https://vault.azure.net/.default"))
        assert "Multiple user assigned identities exist" in caplog.text
        caplog.clear()
        chosen = cloud.cloud.identities[1]
        for options in (
            {"client_id": chosen.client_id},
            {"identity_config": {"object_id": chosen.object_id}},
            {"identity_config": {"resource_id": chosen.resource_id}},
        ):
            with managed_identity(cloud, **options) as credential:
                token = await blocking(lambda: credential.get_token("https://vault.azure.net/.default"))
            assert payload_object(parse_jws(token.token))["oid"] == chosen.object_id
