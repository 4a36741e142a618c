"""Which identity asks for access tokens, as settings say it.

Apart from the other settings because a volume's driver needs this and nothing else of them, and its memory is
bounded.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sidecar.errors import UsageError


class IdentityKind(StrEnum):
    """Where access tokens come from."""

    AUTO = "auto"  # workload identity where its variables are set, else managed identity
    MANAGED = "managed"
    WORKLOAD = "workload"
    CLI = "cli"  # whoever `az login` logged in
    ENVIRONMENT = "environment"  # AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Which identity asks the vault; at most one of the three ids of a managed identity is set."""

    kind: IdentityKind = IdentityKind.AUTO
    client_id: str = ""
    object_id: str = ""
    resource_id: str = ""

    def __post_init__(self) -> None:
        given = [name for name in ("client_id", "object_id", "resource_id") if getattr(self, name)]
        if len(given) > 1:
            raise UsageError(f"identity: {' and '.join(given)} are given, wanted one of them")
        if given and self.kind not in (IdentityKind.AUTO, IdentityKind.MANAGED):
            raise UsageError(f"identity: {given[0]} is for a managed identity, but kind is {self.kind}")


ANY_IDENTITY = IdentitySettings()


def parse_identity_kind(text: str) -> IdentityKind:
    """A word of `IdentityKind`, empty for the default; UsageError for another one."""
    try:
        return IdentityKind(text or "auto")
    except ValueError:
        raise UsageError(f"identity: {text[:32]!r}, wanted one of {', '.join(IdentityKind)}") from None
