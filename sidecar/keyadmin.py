"""Looking at and removing keys of a vault: what `sidecar keys` does.

Kind: composition
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from sidecar.akv import parse_key_ref
from sidecar.akvkeys import KeyBundle, parse_key_bundle, parse_key_list
from sidecar.errors import MalformedInput
from sidecar.services import Vault
from sidecar.strictjson import JsonObject

_MAX_FIELDS = 32  # of a link to the next page
_MAX_PAGES = 400


async def list_keys(vault: Vault) -> list[JsonObject]:
    """Every key: identifier and whether it is enabled."""
    found: list[JsonObject] = []
    query: dict[str, str] = {}
    for _ in range(_MAX_PAGES):
        items, more = parse_key_list(await vault.call("GET", "/keys", query=query))
        found += [{"kid": item.kid, "attributes": item.attributes.to_dict()} for item in items]
        if more is None:
            return found
        # Only the position is taken from the link; the host stays the one that was checked.
        query = {name: value for name, value in _query_of(more).items() if name != "api-version"}
    raise MalformedInput(f"vault {vault.host.name}: over {_MAX_PAGES} pages of keys")


def _query_of(link: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(urlsplit(link).query, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise MalformedInput("list of keys: its nextLink is no URL") from None


async def show(vault: Vault, kid: str) -> JsonObject:
    """One key."""
    return _summary(await vault.key_bundle(parse_key_ref(kid)))


async def delete(vault: Vault, kid: str) -> JsonObject:
    """Delete a key with all its versions; it can be recovered for a while."""
    return _summary(parse_key_bundle(await vault.call("DELETE", f"/keys/{parse_key_ref(kid).name}")))


async def purge(vault: Vault, kid: str) -> JsonObject:
    """Remove a deleted key for ever."""
    name = parse_key_ref(kid).name
    await vault.call("DELETE", f"/deletedkeys/{name}")
    return {"purged": name}


async def recover(vault: Vault, kid: str) -> JsonObject:
    """Bring a deleted key back."""
    name = parse_key_ref(kid).name
    return _summary(parse_key_bundle(await vault.call("POST", f"/deletedkeys/{name}/recover", b"{}")))


def _summary(bundle: KeyBundle) -> JsonObject:
    policy = bundle.release_policy.policy().to_dict() if bundle.release_policy else None
    return {
        "kid": bundle.kid,
        "kty": bundle.key.kty,
        "key_ops": list(bundle.key.key_ops),
        "attributes": bundle.attributes.to_dict(),
        "release_policy": policy,
        **bundle.deleted,
    }
