"""A key as the cloud in a box keeps it.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.akvkeys import Attributes, PolicyEnvelope
from sidecar.jwk import Jwk


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One version of a key; the JWK is **secret**.

    Attributes:
        name: as first written. version: 32 hexadecimal digits.
        policy: the release policy of the whole key.
        deleted, purge: Unix seconds of deletion and of the end of recovery; None while the key lives.
    """

    name: str
    version: str
    jwk: Jwk = field(repr=False)
    attributes: Attributes
    tags: dict[str, str] = field(default_factory=dict)
    policy: PolicyEnvelope | None = None
    deleted: int | None = None
    purge: int | None = None
