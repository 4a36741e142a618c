"""The certificate authority of the cloud in a box: root, intermediate, and leaves for loopback names.

Strategy: like a public service, a leaf hangs under an intermediate under a root; clients are given the root
only. Keys are drawn when a directory is first used and kept there (`sidecar.local.state`); this module only
makes certificates.

Rules: the root may vouch for loopback names and addresses only (critical name constraints), so that
trusting it on a laptop endangers nothing else. Leaves are RSA, because release answers are signed with
RS256.

Spec: RFC 5280 sections 4.2.1.3, 4.2.1.6, 4.2.1.9, 4.2.1.10, 4.2.1.12.

Kind: pure
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.errors import MalformedInput
from sidecar.jose import PrivateKey

ROOT_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=365)
# A client whose clock is a little behind still accepts what was made a moment ago.
BACKDATED = timedelta(hours=1)
LOOPBACK_NAMES = ("localhost", "*.localhost")
LOOPBACK_ADDRESSES = ("127.0.0.1", "::1")
_PERMITTED = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
    x509.IPAddress(ipaddress.ip_network("::1/128")),
)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its private key and the certificates above it.

    Attributes:
        certificate: public.
        key: **secret**.
        above: issuer first, root last; empty for a root.
    """

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    above: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """Itself and everything above, leaf first."""
        return (self.certificate, *self.above)

    def chain_pem(self) -> bytes:
        """The chain as PEM, leaf first, without the root: what a TLS server sends."""
        return b"".join(c.public_bytes(Encoding.PEM) for c in (self.chain[:-1] if self.above else self.chain))

    def key_pem(self) -> bytes:
        """The private key as PKCS#8 PEM, **secret**."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_root(at: datetime, *, name: str = "Local cloud root (not Azure)") -> Issued:
    """A new root."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name), _name(name), key, at, ROOT_LIFE)
    builder = _as_authority(builder, key, key, path_length=1)
    builder = builder.add_extension(x509.NameConstraints(_PERMITTED, None), critical=True)
    return Issued(builder.sign(key, hashes.SHA256()), key)


def make_intermediate(
    root: Issued, at: datetime, *, name: str = "Local cloud services (not Azure)"
) -> Issued:
    """A new intermediate under a root."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name), root.certificate.subject, key, at, ROOT_LIFE)
    builder = _as_authority(builder, key, root.key, path_length=0)
    return Issued(builder.sign(root.key, hashes.SHA256()), key, root.chain)


def make_leaf(
    issuer: Issued,
    common_name: str,
    at: datetime,
    *,
    names: Sequence[str] = LOOPBACK_NAMES,
    addresses: Sequence[str] = LOOPBACK_ADDRESSES,
    life: timedelta = LEAF_LIFE,
) -> Issued:
    """A new server certificate.

    Args:
        issuer: the intermediate.
        common_name: shown to readers; clients look at the names and addresses only.
        at: time of issue; `life` counts from here.
        names, addresses: whom the certificate speaks for.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    san: list[x509.GeneralName] = [x509.DNSName(n) for n in names]
    san += [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
    builder = _builder(_name(common_name), issuer.certificate.subject, key, at, life)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_encipherment=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(san), critical=False)
        .add_extension(_authority_id(issuer.key), critical=False)
    )
    return Issued(builder.sign(issuer.key, hashes.SHA256()), key, issuer.chain)


def make_self_signed(common_name: str, at: datetime, *, life: timedelta = ROOT_LIFE) -> Issued:
    """A certificate of no chain, as the attestation authority publishes for its signing keys."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    builder = _builder(_name(common_name), _name(common_name), key, at, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return Issued(builder.sign(key, hashes.SHA256()), key)


def load_issued(certificate_pem: bytes, key_pem: bytes) -> Issued:
    """Read what was stored: chain as PEM, leaf first and root last, and the private key.

    Raises:
        MalformedInput: not PEM, or the key is not the certificate's.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificate_pem)
        # Ours, from a directory only we can write: checking that its primes are prime takes 30 ms a key.
        key = load_pem_private_key(key_pem, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError):
        raise MalformedInput("stored certificate: not PEM, or the key cannot be read") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise MalformedInput("stored certificate: its key is neither RSA nor EC")
    if key.public_key() != chain[0].public_key():
        raise MalformedInput("stored certificate: the key beside it is another one's")
    return Issued(chain[0], key, tuple(chain[1:]))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, at: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - BACKDATED)
        .not_valid_after(at + life)
    )


def _as_authority(
    builder: x509.CertificateBuilder, key: PrivateKey, issuer_key: PrivateKey, *, path_length: int
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_id(issuer_key), critical=False)
    )


def _authority_id(issuer_key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())


def _usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
