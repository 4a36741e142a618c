"""The gRPC key provider, judged by a client nobody here wrote: grpcio, which learns the service from it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fakes.localcloud import Client
from fakes.sidecarserver import Served, sidecar_served
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, StreamEnded, TrailersReceived

from sidecar.allow import Allowed, Caller, KeyRule
from sidecar.config import SidecarSettings
from sidecar.jwk import jwk_of_private
from sidecar.keyprovider import SERVICE
from sidecar.releasepolicy import build_policy

HOST_DATA = "x-ms-sevsnpvm-hostdata"
NO_POLICY = "00" * 32
OPTIONS = b'{"symkey":"a layer\'s key","cipheroptions":{"nonce":"n"}}'
Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=3072)


@pytest.fixture
async def keys(here: Client, private_key: rsa.RSAPrivateKey, tmp_path: Path) -> Path:
    """A folder with the public half of the key `images`, which the vault releases to this guest."""
    policy = build_policy([here.cloud.url("maa")], [[(HOST_DATA, NO_POLICY)]])
    key = jwk_of_private(private_key, kty="RSA-HSM", key_ops=("decrypt",))
    await here.imported("mhsm", "images", key, policy)
    folder = tmp_path / "keys"
    folder.mkdir()
    public = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "images.pem").write_bytes(public)
    info = {
        "public_key_path": str(folder / "images.pem"),
        "kms_endpoint": here.cloud.environment["MHSM_ENDPOINT"],
        "attester_endpoint": here.cloud.environment["MAA_ENDPOINT"],
    }
    (folder / "images-info.json").write_text(json.dumps(info))
    return folder


class Judge:
    """A gRPC client that knows the service only from what reflection says."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.database)

    def call(self, method: str, *, timeout: float = 30, **values: Any) -> dict[str, Any]:
        """Call a method with fields by name; the answer's fields."""
        service = self.pool.FindServiceByName("key_provider.KeyProviderService")
        found = service.methods_by_name[method]
        request, response = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
        ask = self.channel.unary_unary(
            f"/{service.full_name}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        answer = ask(request(**values), timeout=timeout)
        return {field.name: getattr(answer, field.name) for field in response.DESCRIPTOR.fields}


@asynccontextmanager
async def judged(served: Served) -> AsyncIterator[Call]:
    judge = Judge(served.grpc_target)

    async def call(method: str, **values: Any) -> dict[str, Any]:
        return await trio.to_thread.run_sync(lambda: judge.call(method, **values))

    try:
        yield call  # type: ignore[misc]
    finally:
        await trio.to_thread.run_sync(judge.channel.close)


@asynccontextmanager
async def provider(cloud: Client, keys: Path, **settings: Any) -> AsyncIterator[Any]:
    """The key provider served over TCP, and a judge's `call`."""
    environ = cloud.cloud.environment
    options = {"port": None, "grpc_port": 0, "key_directory": keys, "host": "127.0.0.1"}
    async with (
        sidecar_served(environ, SidecarSettings(**settings), **options) as served,
        judged(served) as call,
    ):
        yield call


def wrap_input(options: bytes = OPTIONS, agent: str = "skr:images") -> bytes:
    """As ocicrypt writes it: byte strings are base64, absent parameters null."""
    return json.dumps(
        {
            "op": "keywrap",
            "keywrapparams": {
                "ec": {
                    "Parameters": {"attestation-agent": [base64.b64encode(agent.encode()).decode()]},
                    "DecryptConfig": {"Parameters": None},
                },
                "optsdata": base64.b64encode(options).decode(),
            },
            "keyunwrapparams": {"dc": None, "annotation": None},
        }
    ).encode()


def unwrap_input(annotation: bytes, agent: str = "skr") -> bytes:
    return json.dumps(
        {
            "op": "keyunwrap",
            "keywrapparams": {"ec": None, "optsdata": None},
            "keyunwrapparams": {
                "dc": {"Parameters": {"attestation-agent": [base64.b64encode(agent.encode()).decode()]}},
                "annotation": base64.b64encode(annotation).decode(),
            },
        }
    ).encode()


async def wrapped(call: Any, options: bytes = OPTIONS) -> bytes:
    """The annotation of wrapped options."""
    answer = await call("WrapKey", key_provider_key_wrap_protocol_input=wrap_input(options))
    results = json.loads(answer["key_provider_key_wrap_protocol_output"])["keywrapresults"]
    return base64.b64decode(results["annotation"])


async def unwrapped(call: Any, annotation: bytes, agent: str = "skr") -> bytes:
    answer = await call("UnWrapKey", key_provider_key_wrap_protocol_input=unwrap_input(annotation, agent))
    results = json.loads(answer["key_provider_key_wrap_protocol_output"])["keyunwrapresults"]
    return base64.b64decode(results["optsdata"])


async def refused(code: grpc.StatusCode, call: Any, method: str, **values: Any) -> str:
    """The words of a call that must fail with a code."""
    with pytest.raises(grpc.RpcError) as caught:
        await call(method, **values)
    assert caught.value.code() is code, caught.value
    return str(caught.value.details())


async def test_every_method(here: Client, keys: Path) -> None:
    async with provider(here, keys) as call:
        assert await call("SayHello", name="Jörg") == {"message": "Hello Jörg"}
        report = bytes.fromhex((await call("GetReport", report_data_hex_string="ab12"))["report_hex_string"])
        assert len(report) == 1184
        # The text is hashed as it is; runtime data is decoded before.
        assert report[0x50:0x90] == hashlib.sha256(b"ab12").digest() + bytes(32)
        data = await call("GetAttestationData", b64_runtime_data_string=base64.b64encode(b"data").decode())
        report = base64.b64decode(data["attestation_report"])
        assert report[0x50:0x90] == hashlib.sha256(b"data").digest() + bytes(32)
        assert data["endorsed_tcb"] == f"{int.from_bytes(report[0x180:0x188], 'little'):016x}"
        assert base64.b64decode(data["certs"]).count(b"BEGIN CERTIFICATE") == 3
        annotation = await wrapped(call)
        packet = json.loads(annotation)
        assert packet["kid"] == "images"
        assert packet["wrap_type"] == "rsa_3072"
        assert len(base64.b64decode(packet["wrapped_data"])) == 384
        assert await unwrapped(call, annotation, "SKR") == OPTIONS  # in any case of letters


async def test_reflection_describes_what_is_served(here: Client, keys: Path) -> None:
    async with sidecar_served(
        here.cloud.environment, port=None, grpc_port=0, key_directory=keys, host="127.0.0.1"
    ) as served:

        def look() -> tuple[list[str], set[str]]:
            judge = Judge(served.grpc_target)
            services = list(judge.database.get_services())
            service = judge.pool.FindServiceByName("key_provider.KeyProviderService")
            for name in ("key_provider.HelloReply", "key_provider.KeyProviderKeyWrapProtocolInput"):
                assert judge.pool.FindMessageTypeByName(name).full_name == name
            with pytest.raises(KeyError):
                judge.pool.FindMessageTypeByName("key_provider.Nothing")
            judge.channel.close()
            return services, set(service.methods_by_name)

        services, methods = await trio.to_thread.run_sync(look)
        assert "key_provider.KeyProviderService" in services
        assert "grpc.reflection.v1alpha.ServerReflection" in services
        assert methods == {method.name for method in SERVICE.methods}


async def test_what_a_caller_does_wrong(here: Client, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "outside-info.json").write_text((keys / "images-info.json").read_text())
    (keys / "link-info.json").symlink_to(tmp_path / "outside-info.json")
    async with provider(here, keys) as call:
        annotation = await wrapped(call)
        packet = json.loads(annotation)
        invalid, denied = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED
        field = "key_provider_key_wrap_protocol_input"

        async def unwrap_refused(code: grpc.StatusCode, **changed: Any) -> str:
            data = unwrap_input(json.dumps(packet | changed).encode())
            return await refused(code, call, "UnWrapKey", **{field: data})

        for data in (b"", b"{", b"[]", wrap_input(agent="skr"), wrap_input(agent="kbs:images")):
            await refused(invalid, call, "WrapKey", **{field: data})
        for data in (unwrap_input(b"no json"), unwrap_input(annotation, "kbs"), wrap_input()):
            await refused(invalid, call, "UnWrapKey", **{field: data})
        await unwrap_refused(invalid, kid="../secrets/x")
        assert "evil.example" in await unwrap_refused(denied, kms_endpoint="evil.example")
        assert "evil.example" in await unwrap_refused(denied, attester_endpoint="evil.example")
        damaged = base64.b64encode(bytes(384)).decode()
        unknown = grpc.StatusCode.UNKNOWN
        assert "does not unwrap" in await unwrap_refused(unknown, wrapped_data=damaged)
        assert "404" in await unwrap_refused(unknown, kid="nothing")
        for path in ("../outside", str(tmp_path / "outside"), "link"):
            words = await refused(denied, call, "WrapKey", **{field: wrap_input(agent=f"skr:{path}")})
            assert "outside" in words
        internal = grpc.StatusCode.INTERNAL
        long = wrap_input(b"x" * (384 - 65))
        assert "at most 318" in await refused(internal, call, "WrapKey", **{field: long})
        await refused(internal, call, "WrapKey", **{field: wrap_input(agent="skr:nothing")})
        await refused(
            grpc.StatusCode.FAILED_PRECONDITION, call, "GetAttestationData", b64_runtime_data_string="*"
        )
        big = grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most" in await refused(big, call, "SayHello", name="x" * (1 << 20))
        assert (await call("SayHello", name="still there"))["message"]


async def test_without_a_key_directory_nothing_is_wrapped(here: Client) -> None:
    options = {"port": None, "grpc_port": 0, "host": "127.0.0.1"}
    async with sidecar_served(here.cloud.environment, **options) as served, judged(served) as call:
        words = await refused(
            grpc.StatusCode.FAILED_PRECONDITION,
            call,
            "WrapKey",
            key_provider_key_wrap_protocol_input=wrap_input(),
        )
        assert "--key-directory" in words


async def test_restrictions_hold_here_too(here: Client, keys: Path) -> None:
    from sidecar.akv import parse_key_ref

    denied = grpc.StatusCode.PERMISSION_DENIED
    field = "key_provider_key_wrap_protocol_input"
    async with provider(here, keys, allowed=Allowed(keys=(KeyRule(parse_key_ref("other")),))) as call:
        data = unwrap_input(await wrapped(call))
        assert "allowed" in await refused(denied, call, "UnWrapKey", **{field: data})
        keyset = json.dumps({"keys": [{"kty": "RSA", "n": "x" * 342}]})
        assert "keys" in await refused(denied, call, "GetReport", report_data_hex_string=keyset)
        text = base64.b64encode(keyset.encode()).decode()
        await refused(denied, call, "GetAttestationData", b64_runtime_data_string=text)
    async with provider(here, keys, allowed=Allowed(callers=(Caller(uid=os.getuid()),))) as call:
        assert "TCP" in await refused(denied, call, "UnWrapKey", **{field: data})
        assert "TCP" in await refused(denied, call, "GetReport", report_data_hex_string="ab")


async def test_callers_are_known_on_the_unix_socket(here: Client, keys: Path, tmp_path: Path) -> None:
    for uid, allowed in ((os.getuid(), True), (os.getuid() + 1, False)):
        settings = SidecarSettings(allowed=Allowed(callers=(Caller(uid=uid),)))
        path = tmp_path / f"grpc-{uid}"
        options = {"port": None, "grpc_unix": path, "key_directory": keys}
        async with (
            sidecar_served(here.cloud.environment, settings, **options),
            judged(Served({"grpc": f"grpc://unix:{path}"})) as call,
        ):
            if allowed:
                assert await unwrapped(call, await wrapped(call)) == OPTIONS
            else:
                words = await refused(
                    grpc.StatusCode.PERMISSION_DENIED, call, "GetReport", report_data_hex_string="a"
                )
                assert f"uid {os.getuid()}" in words
        assert not path.exists()


async def test_a_deadline_of_the_caller_ends_the_call(start_cloud: Any, keys: Path, here: Client) -> None:
    async with provider(here, keys) as call:
        packet = json.loads(await wrapped(call))
    async with start_cloud("slow", faults=("mhsm:delay=5",)) as slow, provider(slow, keys) as call:
        packet["kms_endpoint"] = slow.cloud.environment["MHSM_ENDPOINT"]
        packet["attester_endpoint"] = slow.cloud.environment["MAA_ENDPOINT"]
        data = unwrap_input(json.dumps(packet).encode())
        with trio.fail_after(4):
            await refused(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                call,
                "UnWrapKey",
                timeout=0.5,
                key_provider_key_wrap_protocol_input=data,
            )


async def test_a_status_travels_behind_headers_of_its_own(here: Client, keys: Path) -> None:
    """Some clients see a broken stream when the status stands in the first headers."""
    options: dict[str, Any] = {"port": None, "grpc_port": 0, "key_directory": keys, "host": "127.0.0.1"}
    async with sidecar_served(here.cloud.environment, **options) as served:
        host, port = served.grpc_target.split(":")
        calls = {
            b"/key_provider.KeyProviderService/SayHello": (b"0", b"\0\0\0\0\3\n\1x"),
            b"/key_provider.KeyProviderService/UnWrapKey": (b"3", b"\0\0\0\0\0"),
            b"/key_provider.KeyProviderService/Nothing": (b"12", b"\0\0\0\0\0"),
            b"/key_provider.KeyProviderService/GetReport": (b"12", b"\1\0\0\0\0"),
        }
        for path, (status, body) in calls.items():
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
                client.initiate_connection()
                head = {b":method": b"POST", b":path": path, b":scheme": b"http", b":authority": b"x"}
                head |= {b"content-type": b"application/grpc", b"te": b"trailers"}
                client.send_headers(1, list(head.items()))
                client.send_data(1, body, end_stream=True)
                await stream.send_all(client.data_to_send())
                seen: list[Any] = []
                with trio.fail_after(20):
                    while not any(isinstance(event, StreamEnded) for event in seen):
                        seen += client.receive_data(await stream.receive_some())
            (first,) = [dict(event.headers) for event in seen if isinstance(event, ResponseReceived)]
            (last,) = [dict(event.headers) for event in seen if isinstance(event, TrailersReceived)]
            assert b"grpc-status" not in first
            assert last[b"grpc-status"] == status, (path, last)


# -- an image layer ---------------------------------------------------------------------------------


async def test_a_layer_is_encrypted_and_decrypted_as_ocicrypt_does(here: Client, keys: Path) -> None:
    """Both halves of ocicrypt around the key provider, in its JSON.

    Spec: containers/ocicrypt, spec.go (annotations), blockcipher (AES_256_CTR_HMAC_SHA256, layer options).
    """
    layer = gzip.compress(b"only for the attested" * 100)
    symmetric_key, nonce = os.urandom(32), os.urandom(16)

    def ctr(data: bytes, key: bytes, start: bytes) -> bytes:
        cipher = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()
        return cipher.update(data) + cipher.finalize()

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    private = {
        "symkey": text(symmetric_key),
        "digest": f"sha256:{hashlib.sha256(layer).hexdigest()}",
        "cipheroptions": {"nonce": text(nonce)},
    }
    ciphertext = ctr(layer, symmetric_key, nonce)
    mac = hmac.digest(symmetric_key, ciphertext, "sha256")
    public = {"cipher": "AES_256_CTR_HMAC_SHA256", "hmac": text(mac), "cipheroptions": {}}
    async with provider(here, keys) as call:
        packet = await wrapped(call, json.dumps(private).encode())
        annotations = {
            "org.opencontainers.image.enc.keys.provider.attestation-agent": text(packet),
            "org.opencontainers.image.enc.pubopts": text(json.dumps(public).encode()),
        }
        annotation = annotations["org.opencontainers.image.enc.keys.provider.attestation-agent"]
        options = json.loads(await unwrapped(call, base64.b64decode(annotation)))
    key = base64.b64decode(options["symkey"])
    told = json.loads(base64.b64decode(annotations["org.opencontainers.image.enc.pubopts"]))
    assert hmac.compare_digest(hmac.digest(key, ciphertext, "sha256"), base64.b64decode(told["hmac"]))
    plain = ctr(ciphertext, key, base64.b64decode(options["cipheroptions"]["nonce"]))
    assert options["digest"] == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert gzip.decompress(plain).startswith(b"only for the attested")
