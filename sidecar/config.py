"""Settings of the sidecar: the predecessor's base64 JSON, with members of ours that it never had.

    {"certcache": {"endpoint_type", "endpoint", "tee_type", "api_version", "client_id"},
     "identity": {"client_id", "object_id", "resource_id", "kind"},
     "maaconfig": {"user_agent"},
     "allow": {...},                                    # see sidecar.allow
     "wrapping_bits": 2048, "token_reuse_seconds": 3600}

Rules: everything is optional. Members the predecessor ignored are ignored, because its users have such
settings; inside `allow`, which restricts, they are refused. Both base64 alphabets are read.

Spec: confidential-sidecar-containers, AzureInformation of the key release container.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from sidecar.allow import ANYTHING, Allowed, parse_allowed
from sidecar.errors import MalformedInput, UsageError
from sidecar.identities import ANY_IDENTITY as ANY_IDENTITY
from sidecar.identities import IdentityKind as IdentityKind
from sidecar.identities import IdentitySettings as IdentitySettings
from sidecar.identities import parse_identity_kind as parse_identity_kind
from sidecar.jose import b64_any_decode
from sidecar.snp.endpoints import CertificateEndpoint, EndpointKind
from sidecar.strictjson import JsonObject, as_int, as_object, load_object, optional_text
from sidecar.wrapping import WRAPPING_BITS

WHAT = "settings"
USER_AGENT = "ConfidentialSkrContainer"
DEFAULT_REUSE_SECONDS = 3600
MAX_REUSE_SECONDS = 8 * 3600  # no attestation token lives longer
_MAX_USER_AGENT = 256


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """What a sidecar is started with; nothing in it is secret.

    Attributes:
        endpoint: certificate service asked before the usual ones.
        identity: who asks the vault.
        user_agent: what the attestation authority sees.
        allowed: restrictions on hosts, keys and callers.
        wrapping_bits: size of wrapping keys.
        reuse_seconds: how long an attestation token is used again at most; 0 for never.
    """

    endpoint: CertificateEndpoint | None = None
    identity: IdentitySettings = ANY_IDENTITY
    user_agent: str = USER_AGENT
    allowed: Allowed = ANYTHING
    wrapping_bits: int = WRAPPING_BITS[0]
    reuse_seconds: int = DEFAULT_REUSE_SECONDS

    def __post_init__(self) -> None:
        if self.wrapping_bits not in WRAPPING_BITS:
            raise UsageError(
                f"wrapping key of {self.wrapping_bits} bits: wanted 2048 to 4096 in steps of 8",
                hint="the live services are known to take 2048",
            )
        if not 0 <= self.reuse_seconds <= MAX_REUSE_SECONDS:
            raise UsageError(f"token reuse of {self.reuse_seconds} s: wanted 0 to {MAX_REUSE_SECONDS}")


DEFAULTS = SidecarSettings()


def parse_settings(text: str) -> SidecarSettings:
    """Read the base64 JSON, or the JSON itself; empty text gives the defaults.

    Raises:
        MalformedInput: neither, or a member of another type.
        UsageError: values that do not go together.
    """
    if not text.strip():
        return DEFAULTS
    # Base64 has no braces, so the two cannot be mistaken.
    plain = text.lstrip().startswith("{")
    return read_settings(
        load_object(text if plain else b64_any_decode("".join(text.split()), what=WHAT), what=WHAT)
    )


def read_settings(top: JsonObject) -> SidecarSettings:
    """Read the object; see `parse_settings`."""
    identity = _part(top, "identity")
    return SidecarSettings(
        endpoint=_endpoint(_part(top, "certcache")),
        identity=IdentitySettings(
            _kind(_text(identity, "kind")),
            _text(identity, "client_id"),
            _text(identity, "object_id"),
            _text(identity, "resource_id"),
        ),
        user_agent=_user_agent(_text(_part(top, "maaconfig"), "user_agent"), _text(identity, "client_id")),
        allowed=parse_allowed(top["allow"], f"{WHAT}: allow") if "allow" in top else ANYTHING,
        wrapping_bits=as_int(top.get("wrapping_bits", WRAPPING_BITS[0]), f"{WHAT}: wrapping_bits"),
        reuse_seconds=as_int(
            top.get("token_reuse_seconds", DEFAULT_REUSE_SECONDS), f"{WHAT}: token_reuse_seconds"
        ),
    )


def _kind(text: str) -> IdentityKind:
    try:
        return parse_identity_kind(text)
    except UsageError as exc:
        raise MalformedInput(f"{WHAT}: {exc}") from exc


def _part(top: JsonObject, name: str) -> JsonObject:
    """An object member; one that is absent or null has no members."""
    value = top.get(name)
    return {} if value is None else as_object(value, f"{WHAT}: {name}")


def _text(part: JsonObject, name: str) -> str:
    return optional_text(part, name, WHAT) or ""


def _endpoint(part: JsonObject) -> CertificateEndpoint | None:
    """The certificate service; None when nothing says which."""
    kind, address = _text(part, "endpoint_type"), _text(part, "endpoint")
    if not kind and not address:
        return None
    if kind and kind not in tuple(EndpointKind):
        raise MalformedInput(
            f"{WHAT}: endpoint_type is {kind[:32]!r}, wanted one of {', '.join(EndpointKind)}"
        )
    return CertificateEndpoint(
        EndpointKind(kind) if kind else _kind_of_host(address),
        address,
        _text(part, "tee_type"),
        _text(part, "api_version"),
        _text(part, "client_id"),
    )


def _kind_of_host(address: str) -> EndpointKind:
    """What an address without a type must be: settings older than `endpoint_type` name Azure's cache."""
    try:
        host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    except ValueError:
        host = ""  # refused where the endpoint is made
    if host.endswith(".amd.com"):
        return EndpointKind.AMD
    return EndpointKind.LOCAL_THIM if host == "169.254.169.254" else EndpointKind.AZURE_CACHE


def _user_agent(text: str, client_id: str) -> str:
    """The header's value; the predecessor fetched a vault token only to learn the client id."""
    agent = text or (f"{USER_AGENT} client_id={client_id}" if client_id else USER_AGENT)
    if len(agent) > _MAX_USER_AGENT or not agent.isascii() or not agent.isprintable():
        raise MalformedInput(f"{WHAT}: user_agent: wanted up to {_MAX_USER_AGENT} printable characters")
    return agent
