"""One tag of a vault's key: a small public value that is kept outside any volume's store.

A tag belongs to a version of a key. The vault replaces all tags at once, so the others are sent along.

Kind: composition
"""

from __future__ import annotations

from sidecar.akv import parse_key_ref, parse_kid
from sidecar.akvkeys import UpdateRequest
from sidecar.services import Vault


async def read_tag(vault: Vault, kid: str, name: str) -> str | None:
    """The tag's value, None when the key has none of that name.

    Raises:
        ReleaseRefused, ServiceError, IdentityError: the vault does not say.
    """
    return (await vault.key_bundle(parse_key_ref(kid))).tags.get(name)


async def write_tag(vault: Vault, kid: str, name: str, value: str) -> None:
    """Set one tag of the key's version that `kid` names, the newest when it names none.

    Raises:
        ReleaseRefused: no permission to update keys, or another refusal.
        ServiceError, IdentityError: the vault did not answer, or not to us.
    """
    bundle = await vault.key_bundle(parse_key_ref(kid))
    update = UpdateRequest(tags={**bundle.tags, name: value})
    await vault.call("PATCH", parse_kid(bundle.kid)[1].path, update.to_bytes())
