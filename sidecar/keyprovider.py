"""The gRPC key provider: decrypts image layers with released keys, and reports, as the predecessor did.

Strategy: each method is a function from a message's fields to the answer's; the table of methods is also what
reflection describes.

Rules: hosts, keys and callers are checked as for `/key/release`, before anything is sent; wrapping reads key
files only from the folder the operator named, and logs nothing of what it wraps. `GetReport` hashes the text
it is given, as the predecessor did and its clients expect.

Spec: key_provider.proto of confidential-sidecar-containers; ocicrypt keyprovider protocol.

Kind: composition
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric import rsa

from sidecar import ocicrypt
from sidecar.akv import parse_key_ref
from sidecar.app import App, error_words
from sidecar.asgi import PEER, AsgiApp, Receive, Scope, Send
from sidecar.errors import (
    KeyNotAllowed,
    MalformedInput,
    Overloaded,
    ReportUnavailable,
    SidecarError,
    UsageError,
)
from sidecar.grpc import Code, Endpoint, GrpcError, grpc_app
from sidecar.grpcreflect import PATHS, reflect
from sidecar.jwk import parse_jwk
from sidecar.keyinfo import read_key_info
from sidecar.maa import report_data_for
from sidecar.protobuf import FieldType, Method, Service, message
from sidecar.web import Peer

log = logging.getLogger(__name__)

_TEXT, _BYTES = FieldType.STRING, FieldType.BYTES
_WRAP_IN = message("KeyProviderKeyWrapProtocolInput", ("key_provider_key_wrap_protocol_input", _BYTES))
_WRAP_OUT = message("KeyProviderKeyWrapProtocolOutput", ("key_provider_key_wrap_protocol_output", _BYTES))
SERVICE = Service(
    "key_provider.proto",
    "key_provider",
    "KeyProviderService",
    (
        Method("WrapKey", _WRAP_IN, _WRAP_OUT),
        Method("UnWrapKey", _WRAP_IN, _WRAP_OUT),
        Method(
            "GetReport",
            message("KeyProviderGetReportInput", ("report_data_hex_string", _TEXT)),
            message("KeyProviderGetReportOutput", ("report_hex_string", _TEXT)),
        ),
        Method(
            "GetAttestationData",
            message("KeyProviderGetAttestationDataInput", ("b64_runtime_data_string", _TEXT)),
            message(
                "KeyProviderGetAttestationDataOutput",
                ("endorsed_tcb", _TEXT),
                ("certs", _TEXT),
                ("attestation_report", _TEXT),
                ("uvm_reference_info", _TEXT),
            ),
        ),
        Method(
            "SayHello", message("HelloRequest", ("name", _TEXT)), message("HelloReply", ("message", _TEXT))
        ),
    ),
)
# The most specific class first.
_CODES: tuple[tuple[type[SidecarError], Code], ...] = (
    (MalformedInput, Code.INVALID_ARGUMENT),
    (ReportUnavailable, Code.FAILED_PRECONDITION),
    (UsageError, Code.PERMISSION_DENIED),  # hosts, keys and callers that are not allowed
    (Overloaded, Code.RESOURCE_EXHAUSTED),
    (SidecarError, Code.UNKNOWN),
)
Fields = dict[str, bytes]
Answer = dict[str, str | bytes]


def key_provider(app: App, *, key_directory: Path | None = None) -> AsgiApp:
    """The service over the same guest, services and rules as the HTTP API.

    Args:
        app: the HTTP API.
        key_directory: where WrapKey finds key info files; None refuses WrapKey.
    """
    counted = app.metrics.counter("grpc_calls_total", "gRPC calls ended.", "method", "code")

    def done(path: str, code: Code) -> None:
        counted(path.rpartition("/")[2], code.name)
        log.info("%s: %s", path, code.name)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        provider = _Provider(app, key_directory, scope["extensions"].get(PEER))
        await grpc_app(provider.endpoints(), done=done)(scope, receive, send)

    return serve


class _Provider:
    """The methods, for one caller."""

    def __init__(self, app: App, key_directory: Path | None, peer: Peer | None) -> None:
        self._app = app
        self._key_directory = key_directory
        self._peer = peer

    def endpoints(self) -> dict[str, Endpoint]:
        acts = {
            "WrapKey": self._wrap,
            "UnWrapKey": self._unwrap,
            "GetReport": self._report,
            "GetAttestationData": self._evidence,
            "SayHello": self._hello,
        }
        found = {
            f"/{SERVICE.full_name}/{method.name}": Endpoint(partial(self._run, method, acts[method.name]))
            for method in SERVICE.methods
        }
        return found | {path: Endpoint(_reflect, streaming=True) for path in PATHS}

    async def _run(self, method: Method, act: Callable[[Fields], Awaitable[Answer]], data: bytes) -> bytes:
        """Decode, act, encode; our errors become statuses."""
        try:
            fields = method.request.parse(data)
            self._app.allowed.check_caller(self._peer)
            with self._app.counted_in():
                return method.response.build(await act(fields))
        except SidecarError as exc:
            code = next(code for kind, code in _CODES if isinstance(exc, kind))
            raise GrpcError(code, error_words(exc)) from exc

    async def _wrap(self, fields: Fields) -> Answer:
        wanted = ocicrypt.parse_wrap_input(fields["key_provider_key_wrap_protocol_input"])
        if self._key_directory is None:
            raise GrpcError(
                Code.FAILED_PRECONDITION, "wrapping is off: the server was started without --key-directory"
            )
        read = partial(read_key_info, wanted.key_path, folder=self._key_directory)
        try:
            packet = ocicrypt.wrap_options(wanted.options, await trio.to_thread.run_sync(read))
        except KeyNotAllowed:
            raise
        except SidecarError as exc:
            raise GrpcError(Code.INTERNAL, error_words(exc)) from exc
        return {"key_provider_key_wrap_protocol_output": ocicrypt.build_wrap_output(packet)}

    async def _unwrap(self, fields: Fields) -> Answer:
        packet = ocicrypt.parse_unwrap_input(fields["key_provider_key_wrap_protocol_input"])
        key = parse_key_ref(packet.kid)
        app = self._app
        authority = app.services.authority(packet.attester_endpoint)
        vault = app.services.vault(packet.kms_endpoint)
        app.allowed.check_key(vault.host, key)
        try:
            released = await app.attester.release(authority, vault, key)
        except MalformedInput as exc:  # of a service: not the caller's fault
            raise GrpcError(Code.UNKNOWN, error_words(exc)) from exc
        if released.kty != "RSA":
            raise GrpcError(Code.UNKNOWN, f"key {key}: is {released.kty}, wanted RSA")
        private = parse_jwk(released.jwk(), what="released key").private_key()
        assert isinstance(private, rsa.RSAPrivateKey)  # as its kty says
        options = ocicrypt.unwrap_options(packet, private)
        return {"key_provider_key_wrap_protocol_output": ocicrypt.build_unwrap_output(options)}

    async def _report(self, fields: Fields) -> Answer:
        data = fields["report_data_hex_string"]
        self._app.allowed.check_runtime_data(data)
        raw = await self._app.guest.source.read_report(report_data_for(data))
        return {"report_hex_string": raw.report.hex()}

    async def _evidence(self, fields: Fields) -> Answer:
        try:
            data = base64.b64decode(fields["b64_runtime_data_string"], validate=True)
        except binascii.Error:
            raise GrpcError(Code.FAILED_PRECONDITION, "runtime data: not base64") from None
        self._app.allowed.check_runtime_data(data)
        evidence = await self._app.guest.evidence(report_data_for(data))
        return {
            "endorsed_tcb": f"{evidence.collateral.tcbm:016x}",
            "certs": base64.b64encode(evidence.collateral.chain.to_pem()).decode(),
            "attestation_report": base64.b64encode(evidence.raw.report).decode(),
            "uvm_reference_info": self._app.guest.uvm.reference_info_base64,
        }

    async def _hello(self, fields: Fields) -> Answer:
        return {"message": "Hello " + fields["name"].decode()}


async def _reflect(data: bytes) -> bytes:
    return reflect([SERVICE], data)
