"""Fidelity: `azure-storage-blob` works against the local blob service, unmodified.

The library is written by people who have never seen this service; what it accepts here, and the errors it
raises, are what it does on Azure. The only concession is a public option: the CA file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import trio
from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.identity import ManagedIdentityCredential
from azure.storage.blob import (
    BlobBlock,
    BlobClient,
    BlobLeaseClient,
    BlobSasPermissions,
    BlobServiceClient,
    generate_blob_sas,
)
from fakes.blobservice import BlobService
from fakes.localcloud import Client

T = TypeVar("T")
MIB = 1 << 20


@pytest.fixture(scope="module")
def service(local_blob_service: BlobService) -> BlobService:
    return local_blob_service


@pytest.fixture
def client(service: BlobService, request: pytest.FixtureRequest) -> Iterator[BlobClient]:
    name = f"folder/{request.node.name}"
    with make(service, service.sas(), name) as found:
        yield found


def make(service: BlobService, credential: Any, name: str = "blob") -> BlobClient:
    options = {"connection_verify": service.ca_file, "retry_total": 0, "max_page_size": MIB}
    account = BlobServiceClient(service.base, credential=credential, **options)
    return account.get_blob_client("images", name)


def pages(client: BlobClient, **where: int) -> list[tuple[int, int]]:
    return [(part.start, part.end) for part in client.list_page_ranges(**where)]


def code(caught: pytest.ExceptionInfo[Any]) -> tuple[int, str]:
    return caught.value.status_code, caught.value.error_code


# -- page blobs -----------------------------------------------------------------------------------


def test_a_page_blob_from_end_to_end(client: BlobClient) -> None:
    data = os.urandom(3 * MIB)
    client.create_page_blob(8 * MIB, metadata={"who": "sdk"}, sequence_number=7)
    client.upload_page(data[:MIB], 0, MIB, validate_content=True)
    client.upload_page(data[MIB : 2 * MIB], 4 * MIB, MIB)
    assert pages(client) == [(0, MIB - 1), (4 * MIB, 5 * MIB - 1)]
    client.clear_page(512, 1024)
    assert pages(client, offset=0, length=MIB) == [(0, 511), (1536, MIB - 1)]
    whole = client.download_blob(max_concurrency=2, validate_content=True).readall()
    wanted = bytearray(8 * MIB)
    wanted[:MIB], wanted[4 * MIB : 5 * MIB] = data[:MIB], data[MIB : 2 * MIB]
    wanted[512:1536] = bytes(1024)
    assert whole == wanted
    properties = client.get_blob_properties()
    assert (properties.size, properties.blob_type, properties.page_blob_sequence_number) == (
        *(8 * MIB, "PageBlob"),
        7,
    )
    assert properties.metadata == {"who": "sdk"}
    client.resize_blob(4 * MIB)
    assert client.get_blob_properties().size == 4 * MIB
    assert pages(client)[-1][1] == MIB - 1
    assert client.set_sequence_number("increment")["blob_sequence_number"] == 8
    client.delete_blob()
    assert not client.exists()


def test_the_library_uploads_a_sparse_image_by_itself(client: BlobClient) -> None:
    data = os.urandom(MIB) + bytes(2 * MIB) + os.urandom(MIB)
    client.upload_blob(data, blob_type="PageBlob", overwrite=True)
    assert (
        client.download_blob(offset=MIB // 2, length=3 * MIB).readall() == data[MIB // 2 : MIB // 2 + 3 * MIB]
    )
    assert pages(client) == [(0, MIB - 1), (3 * MIB, 4 * MIB - 1)]


@pytest.mark.parametrize(
    ("offset", "length", "status", "word"),
    [(4 * MIB, 512, 416, "InvalidPageRange"), (4 * MIB - 512, 1024, 416, "InvalidPageRange")],
)
def test_writes_outside_are_refused(
    client: BlobClient, offset: int, length: int, status: int, word: str
) -> None:
    client.create_page_blob(4 * MIB)
    with pytest.raises(HttpResponseError) as caught:
        client.upload_page(bytes(length), offset, length)
    assert code(caught) == (status, word)


def test_conditions(client: BlobClient) -> None:
    first = client.create_page_blob(MIB)["etag"]
    second = client.upload_page(b"x" * 512, 0, 512, etag=first, match_condition=MatchConditions.IfNotModified)
    assert second["etag"] != first
    with pytest.raises(ResourceModifiedError) as caught:
        client.upload_page(b"y" * 512, 0, 512, etag=first, match_condition=MatchConditions.IfNotModified)
    assert code(caught) == (412, "ConditionNotMet")
    with pytest.raises(ResourceModifiedError):
        client.download_blob(etag=first, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(HttpResponseError) as caught:
        client.upload_page(b"y" * 512, 0, 512, if_sequence_number_lt=0)
    assert code(caught) == (412, "SequenceNumberConditionNotMet")
    with pytest.raises(ResourceExistsError) as caught:
        client.upload_blob(b"x" * 512, blob_type="PageBlob", overwrite=False)
    assert code(caught) == (409, "BlobAlreadyExists")
    assert client.download_blob().readall()[:512] == b"x" * 512


# -- leases ---------------------------------------------------------------------------------------


def test_a_lease_from_end_to_end(client: BlobClient) -> None:
    client.create_page_blob(MIB)
    etag = client.get_blob_properties().etag
    lease = client.acquire_lease(15)
    again = BlobLeaseClient(client)
    with pytest.raises(ResourceExistsError) as caught:
        again.acquire(15)
    assert code(caught) == (409, "LeaseAlreadyPresent")
    with pytest.raises(HttpResponseError) as caught:
        client.upload_page(b"x" * 512, 0, 512)
    assert code(caught) == (412, "LeaseIdMissing")
    with pytest.raises(HttpResponseError) as caught:
        client.upload_page(b"x" * 512, 0, 512, lease=again.id)
    assert code(caught) == (412, "LeaseIdMismatchWithBlobOperation")
    assert client.get_blob_properties().etag == etag, "lease operations do not change the ETag"
    client.upload_page(b"x" * 512, 0, 512, lease=lease)
    lease.renew()
    properties = client.get_blob_properties().lease
    assert (properties.state, properties.status, properties.duration) == ("leased", "locked", "fixed")
    old = lease.id
    lease.change("01234567-89ab-cdef-0123-456789abcdef")
    with pytest.raises(HttpResponseError):
        client.upload_page(b"x" * 512, 0, 512, lease=old)
    assert lease.break_lease(0) == 0
    with pytest.raises(ResourceExistsError) as caught:
        lease.renew()
    assert code(caught) == (409, "LeaseIsBrokenAndCannotBeRenewed")
    with pytest.raises(HttpResponseError) as caught:
        client.upload_page(b"x" * 512, 0, 512, lease=lease)
    assert code(caught) == (412, "LeaseLost")
    client.acquire_lease().release()
    assert client.get_blob_properties().lease.state == "available"


# -- block blobs ----------------------------------------------------------------------------------


def test_a_block_blob_from_end_to_end(client: BlobClient) -> None:
    data = os.urandom(3 * MIB + 17)
    client.upload_blob(data, overwrite=True, max_concurrency=2)
    assert client.download_blob().readall() == data
    stored = client.get_blob_properties().content_settings.content_md5
    assert stored is None or bytes(stored) == hashlib.md5(data).digest()
    for name, part in (("b", data[:MIB]), ("a", data[MIB:])):
        client.stage_block(name, part)
    committed, uncommitted = client.get_block_list("all")
    assert [(b.id, b.size) for b in uncommitted] == [("a", 2 * MIB + 17), ("b", MIB)]
    assert committed == []
    assert client.download_blob().readall() == data, "blocks show when they are committed"
    client.commit_block_list([BlobBlock("a"), BlobBlock("b"), BlobBlock("a")])
    assert client.download_blob().readall() == data[MIB:] + data[:MIB] + data[MIB:]
    with pytest.raises(HttpResponseError) as caught:
        client.commit_block_list([BlobBlock("c")])
    assert code(caught) == (400, "InvalidBlockList")
    with pytest.raises(HttpResponseError) as caught:
        client.upload_page(b"x" * 512, 0, 512)
    assert code(caught) == (409, "InvalidBlobType")


# -- who may --------------------------------------------------------------------------------------


def test_signatures(service: BlobService) -> None:
    with make(service, service.sas(), "signed") as owner:
        owner.create_page_blob(512)

    def signed(name: str, life: timedelta, **permissions: bool) -> BlobClient:
        sas = generate_blob_sas(
            *(service.account, "images", name),
            account_key=service.key,
            permission=BlobSasPermissions(**permissions),
            expiry=datetime.now(UTC) + life,
        )
        return make(service, sas, "signed")

    with signed("signed", timedelta(hours=1), read=True) as reader:
        assert reader.get_blob_properties().size == 512
        with pytest.raises(HttpResponseError) as caught:
            reader.upload_page(b"x" * 512, 0, 512)
        assert code(caught) == (403, "AuthorizationPermissionMismatch")
    for client in (
        signed("signed", timedelta(hours=-1), read=True),
        signed("other", timedelta(hours=1), read=True),
    ):
        with client, pytest.raises(ClientAuthenticationError) as caught:
            client.download_blob()
        assert code(caught) == (403, "AuthenticationFailed")
    with make(service, None, "signed") as stranger, pytest.raises(ClientAuthenticationError) as caught:
        stranger.download_blob()
    assert code(caught) == (401, "NoAuthenticationInformation")
    with make(service, service.sas(), "nothing") as owner, pytest.raises(ResourceNotFoundError) as missing:
        owner.download_blob()
    assert code(missing) == (404, "BlobNotFound")


async def blocking(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call)


async def test_tokens_of_a_managed_identity(cloud: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", cloud.cloud.url("imds"))
    options: dict[str, Any] = {"connection_verify": str(cloud.cloud.ca_file), "retry_total": 0}
    address = cloud.cloud.environment["BLOB_ENDPOINT"]
    with (
        ManagedIdentityCredential() as credential,
        BlobServiceClient(address, credential, **options) as account,
    ):
        client = account.get_blob_client("images", "mine")
        await blocking(lambda: client.create_page_blob(512))
        await blocking(lambda: client.upload_page(b"t" * 512, 0, 512))
        assert await blocking(lambda: client.download_blob().readall()) == b"t" * 512
        answer = await cloud.call(
            "blob", "GET", "/local/images/mine", headers={"authorization": "Bearer x.y.z"}
        )
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (401, "InvalidAuthenticationInfo")
        for_vaults = await cloud.access_token("https://vault.azure.net")
        answer = await cloud.call(
            "blob", "GET", "/local/images/mine", headers={"authorization": f"Bearer {for_vaults}"}
        )
        assert answer.status_code == 401, "a token for another service"
