"""The JSON of ocicrypt's key provider protocol, and the packet that an encrypted image layer carries.

Strategy: a layer's key options are encrypted to the public half of a vault's RSA key; the packet says which
key that is, in which vault, and which authority attests. Unwrapping releases the key and decrypts.

Rules: a packet comes with an image, so from anybody: hosts and key names in it are only ever used after the
allow-list has seen them. Member names are compared without case, as the predecessor's decoder did; two that
differ in case only are refused. No error text holds the options: they are the layer's key.

Spec: ocicrypt keyprovider protocol; confidential-sidecar-containers, grpcserver (AnnotationPacket).

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sidecar.errors import MalformedInput, UsageError, VerificationFailed
from sidecar.strictjson import JsonObject, as_list, as_object, as_text, dump_json, load_object

AGENT = "skr"
AGENT_PARAMETER = "attestation-agent"
WRAP_TYPE = "rsa_3072"  # the predecessor wrote this word for every size
_INPUT = "key provider input"
_PACKET = "annotation packet"


def _oaep() -> padding.OAEP:
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def find_member(obj: JsonObject, name: str, what: str) -> object:
    """A member whatever the case of its name; None where it is absent or null."""
    found = [value for key, value in obj.items() if key.lower() == name.lower()]
    if len(found) > 1:
        raise MalformedInput(f"{what}: member {name!r} appears {len(found)} times")
    return found[0] if found else None


def _object(obj: JsonObject, name: str, what: str) -> JsonObject:
    value = find_member(obj, name, what)
    return {} if value is None else as_object(value, f"{what}: {name}")


def _text(obj: JsonObject, name: str, what: str) -> str:
    value = find_member(obj, name, what)
    return "" if value is None else as_text(value, f"{what}: {name}")


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedInput(f"{what}: not base64") from None


# -- input ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WrapInput:
    """What is to be encrypted, secret, and to which key of ours."""

    key_path: str
    options: bytes = field(repr=False)


def parse_wrap_input(data: bytes) -> WrapInput:
    """Read a keywrap request; MalformedInput when it is not one of ours."""
    parameters = _parameters(data, "keywrap")
    agent = _agent(_object(parameters, "ec", _INPUT))
    name, colon, key_path = agent.partition(":")
    if not colon or not key_path:
        raise MalformedInput(f"{_INPUT}: {AGENT_PARAMETER} names no key, wanted {AGENT}:PATH")
    _check_agent(name)
    return WrapInput(key_path, _base64(_text(parameters, "optsdata", _INPUT), f"{_INPUT}: optsdata"))


def parse_unwrap_input(data: bytes) -> AnnotationPacket:
    """Read a keyunwrap request; MalformedInput when it is not one of ours."""
    parameters = _parameters(data, "keyunwrap")
    _check_agent(_agent(_object(parameters, "dc", _INPUT)))
    return parse_packet(_base64(_text(parameters, "annotation", _INPUT), f"{_INPUT}: annotation"))


def _parameters(data: bytes, operation: str) -> JsonObject:
    """The parameters of the operation, which must be the one that is asked for where it is named."""
    body = load_object(data, what=_INPUT)
    named = _text(body, "op", _INPUT)
    if named not in ("", operation):
        raise MalformedInput(f"{_INPUT}: op is {named[:32]!r}, wanted {operation!r}")
    return _object(body, f"{operation}params", _INPUT)


def _agent(config: JsonObject) -> str:
    """The first value of the parameter that says whom the request is for."""
    parameters = _object(config, "Parameters", _INPUT)
    values = as_list(parameters.get(AGENT_PARAMETER) or [], f"{_INPUT}: {AGENT_PARAMETER}")
    if not values:
        raise MalformedInput(f"{_INPUT}: parameter {AGENT_PARAMETER} is missing")
    what = f"{_INPUT}: {AGENT_PARAMETER}"
    try:
        return _base64(as_text(values[0], what), what).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedInput(f"{what}: not text") from None


def _check_agent(name: str) -> None:
    if name.lower() != AGENT:
        raise MalformedInput(
            f"{_INPUT}: {AGENT_PARAMETER} is {name[:64]!r}, wanted {AGENT!r}",
            hint="the request is for another key provider",
        )


# -- packet ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnnotationPacket:
    """What a layer's annotation carries; public."""

    kid: str
    wrapped_data: bytes
    kms_endpoint: str
    attester_endpoint: str

    def to_bytes(self) -> bytes:
        """Compact JSON."""
        return dump_json(
            {
                "kid": self.kid,
                "wrapped_data": base64.b64encode(self.wrapped_data).decode(),
                "wrap_type": WRAP_TYPE,
                "kms_endpoint": self.kms_endpoint,
                "attester_endpoint": self.attester_endpoint,
            }
        )


def parse_packet(data: bytes) -> AnnotationPacket:
    """Read a packet; MalformedInput when it is not one."""
    body = load_object(data, what=_PACKET)
    found = AnnotationPacket(
        _text(body, "kid", _PACKET),
        _base64(_text(body, "wrapped_data", _PACKET), f"{_PACKET}: wrapped_data"),
        _text(body, "kms_endpoint", _PACKET),
        _text(body, "attester_endpoint", _PACKET),
    )
    for name in ("kid", "wrapped_data", "kms_endpoint", "attester_endpoint"):
        if not getattr(found, name):
            raise MalformedInput(f"{_PACKET}: member {name!r} is missing or empty")
    return found


def build_wrap_output(packet: AnnotationPacket) -> bytes:
    """The answer to keywrap."""
    return _output(annotation=packet.to_bytes())


def build_unwrap_output(options: bytes) -> bytes:
    """The answer to keyunwrap, secret."""
    return _output(options=options)


def _output(*, annotation: bytes | None = None, options: bytes | None = None) -> bytes:
    def text(data: bytes | None) -> str | None:
        return None if data is None else base64.b64encode(data).decode()

    return dump_json(
        {"keywrapresults": {"annotation": text(annotation)}, "keyunwrapresults": {"optsdata": text(options)}}
    )


# -- wrapping -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """The public key to wrap to, and where its private half is."""

    kid: str
    public_key: rsa.RSAPublicKey
    kms_endpoint: str
    attester_endpoint: str


@dataclass(frozen=True, slots=True)
class KeyInfoFile:
    """`<keypath>-info.json`."""

    public_key_path: str
    kms_endpoint: str
    attester_endpoint: str


def parse_key_info(data: bytes, what: str) -> KeyInfoFile:
    """Read a key info file; MalformedInput when it is not one."""
    body = load_object(data, what=what)
    names = ("public_key_path", "kms_endpoint", "attester_endpoint")
    found = KeyInfoFile(*(_text(body, name, what) for name in names))
    for name in names:
        if not getattr(found, name):
            raise MalformedInput(f"{what}: member {name!r} is missing or empty")
    return found


def parse_public_key(data: bytes, what: str) -> rsa.RSAPublicKey:
    """Read a PEM public key; MalformedInput when it is none, or not RSA."""
    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError):
        raise MalformedInput(f"{what}: not a PEM public key") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise MalformedInput(f"{what}: not an RSA key")
    return key


def wrap_options(options: bytes, info: KeyInfo) -> AnnotationPacket:
    """Encrypt key options, secret, to a key.

    Raises:
        UsageError: they are longer than the key takes.
    """
    limit = info.public_key.key_size // 8 - 66
    if len(options) > limit:
        raise UsageError(
            f"data to wrap: {len(options)} bytes, at most {limit} for RSA-{info.public_key.key_size}"
        )
    return AnnotationPacket(
        info.kid, info.public_key.encrypt(options, _oaep()), info.kms_endpoint, info.attester_endpoint
    )


def unwrap_options(packet: AnnotationPacket, private_key: rsa.RSAPrivateKey) -> bytes:
    """Decrypt key options, secret.

    Raises:
        VerificationFailed: made for another key, or damaged.
    """
    try:
        return private_key.decrypt(packet.wrapped_data, _oaep())
    except ValueError:
        raise VerificationFailed(
            f"wrapped data: does not unwrap under key {packet.kid[:160]!r}",
            hint="the layer was encrypted to another key or another version of it",
        ) from None
