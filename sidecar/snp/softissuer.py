"""Certificates of the software processor: AMD's in every detail but the organisation, which says what it is.

Spec: AMD 57230, ARK, ASK and VCEK certificates and their extensions.

Kind: pure
"""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import NameOID

from sidecar.snp.chain import PSS
from sidecar.snp.leaf import Leaf, build_leaf_extensions

LABEL = "SOFTWARE, NOT HARDWARE"
_AUTHORITY_LIFE = timedelta(days=25 * 365)
_VCEK_LIFE = timedelta(days=7 * 365)


def build_authority(
    common_name: str,
    issuer: x509.Name | None,
    key: rsa.RSAPrivateKey,
    signer: rsa.RSAPrivateKey,
    *,
    path_length: int | None,
    now: datetime,
) -> x509.Certificate:
    """An ARK (no issuer, no path length) or an ASK (path length 0), with AMD's extensions.

    Args:
        key: of the certificate, `signer`: of its issuer; both secret.
    """
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=path_length is None,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(common_name, issuer, key.public_key(), now, _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(signer, SHA384(), rsa_padding=PSS)
    )


def build_vcek(
    leaf: Leaf, key: ec.EllipticCurvePublicKey, issuer: x509.Name, signer: rsa.RSAPrivateKey, *, now: datetime
) -> x509.Certificate:
    """A VCEK that says what `leaf` says; `signer` is the ASK's key, secret."""
    builder = _builder("SEV-VCEK", issuer, key, now, _VCEK_LIFE)
    for extension in build_leaf_extensions(leaf):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, SHA384(), rsa_padding=PSS)


def _name(common_name: str) -> x509.Name:
    """AMD's attributes in AMD's order, with an organisation nobody can take for AMD."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, LABEL),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    common_name: str,
    issuer: x509.Name | None,
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    subject = _name(common_name)
    # AMD's key service dates certificates a day back as well, which forgives a slow clock.
    start = now - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + life)
    )
