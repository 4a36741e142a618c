"""A certificate chain to sign test fragments with: root, intermediate, leaf, made anew each time.

Rules: the names say that it is for tests; the keys of the two authorities are thrown away once they have
signed, so that the chain can vouch for nothing else; only the leaf's key is handed out, and it is
**secret** all the same: who has it can add containers to every policy that imports its issuer.

Spec: RFC 5280, sections 4.1 and 4.2.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.cose import PrivateKey
from sidecar.didx509 import build_did
from sidecar.errors import UsageError

# Clocks differ; a chain made here is used elsewhere at once.
_LEEWAY = timedelta(hours=1)
_MAX_NAME = 64  # characters, the limit of X.520
_KEYS: Mapping[str, Callable[[], PrivateKey]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 3072),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
KEY_KINDS = tuple(_KEYS)


@dataclass(frozen=True, slots=True)
class SigningChain:
    """A chain and its leaf's key.

    Attributes:
        key_pem: PKCS#8, **secret**.
        chain_pem: leaf first, root last.
        issuer: did:x509 of what is signed with it.
    """

    key_pem: bytes = field(repr=False)
    chain_pem: bytes
    issuer: str


def make_test_chain(
    *, now: datetime, name: str = "Test Fragment Signer", kind: str = "p384", days: int = 365
) -> SigningChain:
    """Make a chain.

    Args:
        now: with a time zone.
        name: common name of the leaf, 1 to 64 characters; part of the issuer.
        kind: of the leaf's key, one of KEY_KINDS.
        days: for which it is valid.

    Raises:
        UsageError: a name or a number of days that no certificate can have.
    """
    if not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
        raise UsageError(f"name {name[:80]!r}: wanted 1 to {_MAX_NAME} printable characters")
    if not 1 <= days <= 36500:
        raise UsageError(f"{days} days: wanted 1 to 36500")
    root_key, middle_key, leaf_key = (_KEYS[k]() for k in ("p384", "p384", kind))
    first, last = now - _LEEWAY, now + timedelta(days=days)
    root_name, middle_name = _name("Test Root (for tests only)"), _name("Test CA (for tests only)")
    root = _certificate(root_name, root_name, root_key, root_key, first, last, path_length=1)
    middle = _certificate(middle_name, root_name, middle_key, root_key, first, last, path_length=0)
    leaf = _certificate(_name(name), middle_name, leaf_key, middle_key, first, last, path_length=None)
    chain = [leaf, middle, root]
    return SigningChain(
        leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        build_did(chain),
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: PrivateKey,
    signer: PrivateKey,
    first: datetime,
    last: datetime,
    *,
    path_length: int | None,
) -> x509.Certificate:
    """One certificate; an authority when it has a path length."""
    ca = path_length is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
        .add_extension(_usage(ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not ca:
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        builder = builder.add_extension(usages, critical=False)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    return builder.sign(signer, hashes.SHA384())


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
