"""A certificate authority in AMD's image for each product line, with a knob for all that can be wrong.

It shares no code with the product's software processor, so that a mistake made there is not repeated here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from sidecar.snp.certs import CertificateChain
from sidecar.snp.report import FirmwareVersion, Report, build_report
from sidecar.snp.tcb import Cpuid, ProductLine, Tcb

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OID = "1.3.6.1.4.1.3704.1."
CPUIDS = {
    ProductLine.MILAN: Cpuid(0x19, 0x01, 0x01),
    ProductLine.GENOA: Cpuid(0x19, 0x11, 0x01),
    ProductLine.TURIN: Cpuid(0x1A, 0x02, 0x01),
}
TCBS = {
    ProductLine.MILAN: bytes((4, 0, 0, 0, 0, 0, 0x18, 0xDB)),
    ProductLine.GENOA: bytes((10, 0, 0, 0, 0, 0, 0x17, 0x54)),
    ProductLine.TURIN: bytes((1, 1, 1, 4, 0, 0, 0, 0x51)),
}


@functools.cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """One key per role and run; 2048 bits because nothing here is about strength."""
    return rsa.generate_private_key(65537, 2048)


@functools.cache
def leaf_key(name: str) -> ec.EllipticCurvePrivateKey:
    """P-384 by role and run."""
    return ec.generate_private_key(ec.SECP384R1())


def name(common_name: str, organisation: str = "Advanced Micro Devices") -> x509.Name:
    """A name with AMD's attributes."""
    pairs = [
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.LOCALITY_NAME, "Santa Clara"),
        (NameOID.STATE_OR_PROVINCE_NAME, "CA"),
        (NameOID.ORGANIZATION_NAME, organisation),
        (NameOID.COMMON_NAME, common_name),
    ]
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


def der_int(value: int) -> bytes:
    """DER INTEGER of a byte."""
    return bytes((2, 1, value)) if value < 128 else bytes((2, 2, 0, value))


def der_ia5(text: str) -> bytes:
    """DER IA5String."""
    return bytes((0x16, len(text))) + text.encode()


@dataclass(frozen=True)
class Certificate:
    """Everything about one certificate that a test may want to spoil."""

    subject: x509.Name
    issuer: x509.Name
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    signer: rsa.RSAPrivateKey
    serial: int
    first: datetime = datetime(2025, 1, 1, tzinfo=UTC)
    last: datetime = datetime(2032, 1, 1, tzinfo=UTC)
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    padding: padding.PSS | padding.PKCS1v15 = field(
        default_factory=lambda: padding.PSS(padding.MGF1(hashes.SHA384()), 48)
    )
    algorithm: hashes.SHA256 | hashes.SHA384 = field(default_factory=hashes.SHA384)

    def build(self) -> x509.Certificate:
        """Sign it as described."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(self.issuer)
            .public_key(self.public_key)
            .serial_number(self.serial)
            .not_valid_before(self.first)
            .not_valid_after(self.last)
        )
        for extension, critical in self.extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.signer, self.algorithm, rsa_padding=self.padding)


def unspoiled(certificate: Certificate) -> Certificate:
    """The certificate as AMD would issue it."""
    return certificate


def ca_extensions(
    path_length: int | None, *, ca: bool = True, sign: bool = True
) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """Basic constraints and key usage of an ARK (no path length) or an ASK (0)."""
    usage = x509.KeyUsage(False, False, False, False, False, sign, path_length is None, False, False)
    return (x509.BasicConstraints(ca, path_length if ca else None), True), (usage, True)


def leaf_extensions(values: dict[str, bytes]) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """AMD's extensions by number below 1.3.6.1.4.1.3704.1."""
    return tuple(
        (x509.UnrecognizedExtension(x509.ObjectIdentifier(OID + number), value), False)
        for number, value in values.items()
    )


@dataclass(frozen=True)
class Authority:
    """ARK, ASK (or ASVK) and leaf of one product line."""

    line: ProductLine = ProductLine.MILAN
    vlek: bool = False
    tcb: bytes = b""
    hwid: bytes = b""
    spoil_ark: Callable[[Certificate], Certificate] = unspoiled
    spoil_ask: Callable[[Certificate], Certificate] = unspoiled
    spoil_leaf: Callable[[Certificate], Certificate] = unspoiled
    spoil_values: Callable[[dict[str, bytes]], object] = lambda v: None
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: leaf_key("leaf"))

    @property
    def levels(self) -> bytes:
        """TCB as stored in a report, 8 bytes."""
        return self.tcb or TCBS[self.line]

    @property
    def chip(self) -> bytes:
        """Hardware id as the leaf carries it: 64 bytes, Turin 8."""
        return self.hwid or bytes(range(1, 9 if self.line is ProductLine.TURIN else 65))

    @property
    def chip_id(self) -> bytes:
        """CHIP_ID of the report."""
        return bytes(64) if self.vlek else self.chip.ljust(64, b"\0")

    def values(self) -> dict[str, bytes]:
        """Leaf extensions, spoiled or not. AMD 57230."""
        turin = self.line is ProductLine.TURIN
        order = "3.9 3.1 3.2 3.3 3.5 3.6 3.7 3.8" if turin else "3.1 3.2 3.4 3.5 3.6 3.7 3.3 3.8"
        product = "Milan-B0" if self.line is ProductLine.MILAN and not self.vlek else str(self.line)
        values = {"1": der_int(int(turin)), "2": der_ia5(product)}
        values.update({n: der_int(level) for n, level in zip(order.split(), self.levels, strict=True)})
        values.update({"5": der_ia5("CN=cloud.example")} if self.vlek else {"4": self.chip})
        self.spoil_values(values)
        return values

    def chain(self) -> CertificateChain:
        """The three certificates; equal authorities have the same, all of a line share the ARK."""
        return _chain(self)

    def report(self, **changes: object) -> bytes:
        """A signed report of this line's chip, version 3 unless changed."""
        tcb = Tcb(self.levels, self.line.layout)
        report = Report(
            version=3,
            report_data=b"d" * 64,
            measurement=b"m" * 48,
            host_data=b"h" * 32,
            policy=0x3001F,
            vmpl=0,
            reported_tcb=tcb,
            current_tcb=tcb,
            committed_tcb=tcb,
            launch_tcb=tcb,
            chip_id=self.chip_id,
            cpuid=CPUIDS[self.line],
            current_version=FirmwareVersion(1, 55, 29),
            committed_version=FirmwareVersion(1, 55, 29),
            platform_info=0x25,
            flags=0b00100 if self.vlek else 0,
        )
        return sign(replace(report, **changes), self.key)


@functools.cache
def _ark(line: ProductLine, spoil: Callable[[Certificate], Certificate]) -> x509.Certificate:
    key, subject = rsa_key("ark"), name(f"ARK-{line}")
    plain = Certificate(subject, subject, key.public_key(), key, 0x10000, extensions=ca_extensions(None))
    return spoil(plain).build()


@functools.cache
def _ask(line: ProductLine, vlek: bool, spoil: Callable[[Certificate], Certificate]) -> x509.Certificate:
    plain = Certificate(
        _ask_name(line, vlek),
        name(f"ARK-{line}"),
        rsa_key("ask").public_key(),
        rsa_key("ark"),
        0x10001,
        extensions=ca_extensions(0),
    )
    return spoil(plain).build()


def _ask_name(line: ProductLine, vlek: bool) -> x509.Name:
    return name(f"SEV-VLEK-{line}" if vlek else f"SEV-{line}")


@functools.cache
def _chain(authority: Authority) -> CertificateChain:
    line, vlek = authority.line, authority.vlek
    leaf = Certificate(
        name("SEV-VLEK" if vlek else "SEV-VCEK"),
        _ask_name(line, vlek),
        authority.key.public_key(),
        rsa_key("ask"),
        77,
        extensions=leaf_extensions(authority.values()),
    )
    return CertificateChain(
        leaf=authority.spoil_leaf(leaf).build(),
        ask=_ask(line, vlek, authority.spoil_ask),
        ark=_ark(line, authority.spoil_ark),
    )


def sign(report: Report, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign a report as the firmware would, 1184 bytes."""
    r, s = decode_dss_signature(key.sign(build_report(report)[:0x2A0], ec.ECDSA(hashes.SHA384())))
    return build_report(replace(report, signature_r=r, signature_s=s))


def spoiled_dates(last: datetime) -> Callable[[Certificate], Certificate]:
    """A certificate that ends at `last`."""
    return lambda certificate: replace(certificate, last=last)
