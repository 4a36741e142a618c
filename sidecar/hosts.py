"""Which hosts we talk to, decided before a token is fetched: an access token sent to a stranger is lost.

By default the suffixes of Azure's services are allowed, per cloud. `SIDECAR_ALLOWED_HOSTS` and the settings'
lists replace them; where there are both, a host must be on both. What a caller names is only ever checked
against that.

Kind: pure
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sidecar.errors import HostNotAllowed, MalformedInput

ALLOWED_VARIABLE = "SIDECAR_ALLOWED_HOSTS"
HSM_VARIABLE = "SIDECAR_MANAGED_HSM_HOSTS"
_HOST = re.compile(
    r"(?=.{1,253}(?::|\Z))[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::(?P<port>[1-9][0-9]{0,4}))?", re.ASCII
)
_LAST_PORT = 65535


class ServiceKind(StrEnum):
    """What a host is asked for."""

    AUTHORITY = "attestation authority"
    VAULT = "vault"
    MANAGED_HSM = "managed HSM"
    BLOB = "blob account"


@dataclass(frozen=True, slots=True)
class Cloud:
    """One Azure cloud: host suffixes and token audiences of its services."""

    authority: str
    vault: str
    managed_hsm: str
    blob: str


# Spec: Azure documentation, endpoints of the public, China and US Government clouds.
CLOUDS = (
    Cloud(".attest.azure.net", ".vault.azure.net", ".managedhsm.azure.net", ".blob.core.windows.net"),
    Cloud(".attest.azure.cn", ".vault.azure.cn", ".managedhsm.azure.cn", ".blob.core.chinacloudapi.cn"),
    Cloud(
        ".attest.azure.us",
        ".vault.usgovcloudapi.net",
        ".managedhsm.usgovcloudapi.net",
        ".blob.core.usgovcloudapi.net",
    ),
)
# Spec: Azure Storage, authorize with Microsoft Entra ID: one audience for all accounts of all clouds.
STORAGE_AUDIENCE = "https://storage.azure.com"


@dataclass(frozen=True, slots=True)
class Host:
    """A host that was checked: `name` is host or host:port in lower case."""

    name: str
    kind: ServiceKind
    audience: str

    @property
    def url(self) -> str:
        """`https://` and the name; there is no other scheme."""
        return f"https://{self.name}"


@dataclass(frozen=True, slots=True)
class Hosts:
    """The allow-list.

    Attributes:
        exact: the only hosts allowed; None for Azure's suffixes.
        managed_hsm: hosts that are managed HSMs although their name does not say so.
        vaults, authorities: what the settings allow, None where they say nothing.
    """

    exact: frozenset[str] | None = None
    managed_hsm: frozenset[str] = frozenset()
    vaults: frozenset[str] | None = None
    authorities: frozenset[str] | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Hosts:
        """Read the two variables; an empty one counts as absent."""
        exact = _listed(environ.get(ALLOWED_VARIABLE, ""))
        return cls(exact or None, _listed(environ.get(HSM_VARIABLE, "")))

    def authority(self, text: str) -> Host:
        """Check an attestation authority; see `_checked`."""
        return self._checked(text, ServiceKind.AUTHORITY)

    def vault(self, text: str) -> Host:
        """Check a vault or managed HSM, and say which it is."""
        name = parse_host(text)
        is_vault = any(name.endswith(cloud.vault) for cloud in CLOUDS)
        is_hsm = name in self.managed_hsm or ("managedhsm" in name and not is_vault)
        return self._checked(text, ServiceKind.MANAGED_HSM if is_hsm else ServiceKind.VAULT)

    def blob(self, text: str) -> Host:
        """Check a blob account before a token is sent to it; see `_checked`."""
        return self._checked(text, ServiceKind.BLOB)

    def _checked(self, text: str, kind: ServiceKind) -> Host:
        """Parse and check a host.

        Raises:
            MalformedInput: not a host name.
            HostNotAllowed: not on the list.
        """
        name = parse_host(text)
        cloud = next((c for c in CLOUDS if name.endswith(_suffix(c, kind))), None)
        is_authority = kind is ServiceKind.AUTHORITY
        of_settings = self.authorities if is_authority else self.vaults
        where = f"allow.{'authorities' if is_authority else 'vaults'} of the settings"
        for allowed, place in ((self.exact, ALLOWED_VARIABLE), (of_settings, where)):
            if allowed is not None and name not in allowed:
                raise HostNotAllowed(
                    f"{kind} {name}: not allowed, wanted one of {', '.join(sorted(allowed)) or 'none'}",
                    hint=f"the list is {place}; no token was fetched and nothing was sent",
                )
        if self.exact is None and of_settings is None and (cloud is None or ":" in name):
            suffixes = ", ".join(_suffix(c, kind) for c in CLOUDS)
            raise HostNotAllowed(
                f"{kind} {name}: not a host of Azure's, wanted a name ending in one of {suffixes}",
                hint=f"to use another service, list its host in {ALLOWED_VARIABLE}; nothing was sent",
            )
        if kind is ServiceKind.BLOB:
            return Host(name, kind, STORAGE_AUDIENCE)
        return Host(name, kind, "https://" + _suffix(cloud or CLOUDS[0], kind)[1:])


def parse_host(text: str) -> str:
    """A host name with an optional port, in lower case; no scheme, path, user or address literal of IPv6.

    Raises:
        MalformedInput: anything else.
    """
    name = text.strip().lower()
    match = _HOST.fullmatch(name)
    if match is None or ".." in name or int(match["port"] or 1) > _LAST_PORT:
        hint = "leave out https:// and the path" if "/" in name else ""
        raise MalformedInput(f"host {text[:100]!r}: wanted a name like myvault.vault.azure.net", hint=hint)
    return name


def _suffix(cloud: Cloud, kind: ServiceKind) -> str:
    return {
        ServiceKind.AUTHORITY: cloud.authority,
        ServiceKind.VAULT: cloud.vault,
        ServiceKind.MANAGED_HSM: cloud.managed_hsm,
        ServiceKind.BLOB: cloud.blob,
    }[kind]


def _listed(text: str) -> frozenset[str]:
    return frozenset(parse_host(item) for item in text.split(",") if item.strip())
