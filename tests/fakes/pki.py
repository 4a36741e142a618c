"""Keys and certificates for tests, drawn once per run: RSA keys are slow to make."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidecar.local.ca import Issued, make_intermediate, make_leaf, make_root, make_self_signed
from sidecar.wrapping import WrappingKey

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@cache
def rsa_key(label: str = "") -> rsa.RSAPrivateKey:
    """An RSA-2048 key; another one for each label."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key(curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    """An EC key on the curve Key Vault calls so."""
    curves = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1, "P-256K": ec.SECP256K1}
    return ec.generate_private_key(curves[curve]())


@cache
def wrapping_key(label: str = "") -> WrappingKey:
    """A guest's wrapping key; another one for each label."""
    return WrappingKey(rsa_key(f"wrapping {label}"))


@cache
def root() -> Issued:
    """A trusted root."""
    return make_root(NOW)


@cache
def leaf() -> Issued:
    """A service's leaf under intermediate and root, good for localhost."""
    return make_leaf(make_intermediate(root(), NOW), "vault (test)", NOW)


@cache
def self_signed() -> Issued:
    """An attestation authority's signing certificate."""
    return make_self_signed("authority (test)", NOW)
