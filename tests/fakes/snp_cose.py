"""An issuer of signed statements: three certificates, with a knob for all that can be wrong with them."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sidecar.cbor import Key, Tagged, Value
from sidecar.cose import CONTENT_TYPE, X5CHAIN, PrivateKey, sign_sign1

EKU = "1.3.6.1.4.1.311.76.59.1.2"
FEED = "ContainerPlat-AMD-UVM"
SIGNED_AT = datetime(2023, 2, 8, tzinfo=UTC)


@functools.cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """One key per role and run."""
    return ec.generate_private_key(ec.SECP384R1())


@dataclass(frozen=True)
class Spec:
    """One certificate to be."""

    subject: x509.Name
    issuer: x509.Name
    key: PrivateKey
    signer: PrivateKey
    first: datetime = datetime(2023, 1, 1, tzinfo=UTC)
    last: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    digest: hashes.SHA224 | hashes.SHA256 = field(default_factory=hashes.SHA256)

    def build(self) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(self.issuer)
            .public_key(self.key.public_key())
            .serial_number(5)
            .not_valid_before(self.first)
            .not_valid_after(self.last)
        )
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.signer, self.digest)


def name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Organisation"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def usage(*, sign: bool = False, certify: bool = False) -> tuple[x509.ExtensionType, bool]:
    return x509.KeyUsage(sign, False, False, False, False, certify, False, False, False), True


def authority(path_length: int | None, *, ca: bool = True) -> tuple[x509.ExtensionType, bool]:
    return x509.BasicConstraints(ca, path_length if ca else None), True


def same(spec: Spec) -> Spec:
    """Unspoiled."""
    return spec


@dataclass(frozen=True)
class Issuer:
    """Chain of three and the statements it signs."""

    spoil_root: Callable[[Spec], Spec] = same
    spoil_middle: Callable[[Spec], Spec] = same
    spoil_leaf: Callable[[Spec], Spec] = same
    leaf_key: PrivateKey = field(default_factory=lambda: key("leaf"))

    def chain(self) -> list[x509.Certificate]:
        return list(_chain(self))

    def did(self, predicates: str = f"eku:{EKU}", *, position: int = 2, algorithm: str = "sha256") -> str:
        digest = {"sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}[algorithm]
        fingerprint = base64.urlsafe_b64encode(self.chain()[position].fingerprint(digest())).rstrip(b"=")
        return f"did:x509:0:{algorithm}:{fingerprint.decode()}::{predicates}"

    def endorse(
        self, measurement: bytes, *, svn: object = "22", payload: bytes | None = None, **headers: Value
    ) -> bytes:
        """A UVM endorsement; `headers` replace or, with ..., remove protected headers."""
        claims = {"x-ms-sevsnpvm-guestsvn": svn, "x-ms-sevsnpvm-launchmeasurement": measurement.hex()}
        protected: dict[Key, object] = {
            CONTENT_TYPE: "application/json",
            X5CHAIN: [c.public_bytes(Encoding.DER) for c in self.chain()],
            "iss": self.did(),
            "feed": FEED,
            "signingtime": Tagged(1, int(SIGNED_AT.timestamp())),
        }
        names: dict[str, Key] = {"content_type": CONTENT_TYPE, "x5chain": X5CHAIN, "x5t": 34}
        for header, value in headers.items():
            protected[names.get(header, header)] = value
        kept = {label: value for label, value in protected.items() if value is not ...}
        return sign_sign1(kept, payload or json.dumps(claims).encode(), self.leaf_key)


@functools.cache
def _chain(issuer: Issuer) -> tuple[x509.Certificate, ...]:
    root = Spec(
        name("Root"),
        name("Root"),
        key("root"),
        key("root"),
        extensions=(authority(None), usage(certify=True)),
    )
    middle = Spec(
        name("Middle"),
        name("Root"),
        key("middle"),
        key("root"),
        extensions=(authority(0), usage(certify=True)),
    )
    leaf = Spec(
        name("Leaf"),
        name("Middle"),
        issuer.leaf_key,
        key("middle"),
        extensions=(
            usage(sign=True),
            (x509.ExtendedKeyUsage([x509.ObjectIdentifier(EKU)]), False),
            (
                x509.SubjectAlternativeName(
                    [
                        x509.RFC822Name("bob@example.com"),
                        x509.DNSName("example.com"),
                        x509.UniformResourceIdentifier("https://example.com/a"),
                    ]
                ),
                False,
            ),
        ),
    )
    return (
        issuer.spoil_leaf(leaf).build(),
        issuer.spoil_middle(middle).build(),
        issuer.spoil_root(root).build(),
    )


def spoil(**changes: object) -> Callable[[Spec], Spec]:
    """Replace fields of one certificate."""
    return lambda spec: replace(spec, **changes)


@functools.cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)
