"""The attestation report: 1184 bytes to and from `Report`.

Strategy: one `struct` for the whole signed region, one for a signature half. Versions 2 to 5 share the size
and nearly all places; 3 added CPUID bytes, 5 the mitigation vectors. Version 4 is read as 3.

Rules: bytes that must be zero are checked; flag words keep every bit, named or not; the signature is always
judged over `Report.raw`, never over rebuilt bytes. Version 1 (pre-release, and the fake of older tools) and
versions above 5 are refused.

Spec: AMD 56860 (SNP firmware ABI), table ATTESTATION_REPORT; signature layout of the same document.

Kind: pure
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from enum import IntEnum

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from sidecar.errors import MalformedInput
from sidecar.snp.tcb import Cpuid, ProductLine, Tcb, TcbLayout

__all__ = [
    "REPORT_SIZE",
    "SIGNED_SIZE",
    "FirmwareVersion",
    "ProductLine",
    "Report",
    "SigningKey",
    "Tcb",
    "build_report",
    "parse_report",
]

REPORT_SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
REPORT_DATA_SIZE = 64
HOST_DATA_SIZE = 32
MEASUREMENT_SIZE = 48
CHIP_ID_SIZE = 64
VERSIONS = range(2, 6)
ALGORITHM_ECDSA_P384_SHA384 = 1
# VMPL of a report that the host, not the guest, asked for.
VMPL_HOST = 0xFFFFFFFF

# version, guest_svn, policy, family_id, image_id, vmpl, signature_algorithm, current_tcb, platform_info,
# flags, zero, report_data, measurement, host_data, id_key_digest, author_key_digest, report_id,
# report_id_ma, reported_tcb, cpuid (3) and zero (21), chip_id, committed_tcb, current version (3), zero,
# committed version (3), zero, launch_tcb, launch and current mitigation vector, zero
_SIGNED = struct.Struct("<IIQ16s16sII8sQII64s48s32s48s48s32s32s8s24s64s8s3sB3sB8sQQ152s")
_SCALAR = struct.Struct("<48s24s")
_SIGNATURE_USED = 2 * _SCALAR.size
assert _SIGNED.size == SIGNED_SIZE


class SigningKey(IntEnum):
    """Which key signed the report: bits 4:2 of FLAGS."""

    VCEK = 0
    VLEK = 1
    NONE = 7


@dataclass(frozen=True, slots=True, order=True)
class FirmwareVersion:
    """SNP firmware version; ordered by major, minor, build."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True)
class Report:
    """One report; every field is public. Sizes in bytes where they are not numbers.

    Attributes:
        report_data: 64, chosen by the guest. host_data: 32, chosen by the host at launch.
        measurement: 48, launch digest. id_key_digest, author_key_digest: 48. family_id, image_id: 16.
        report_id, report_id_ma: 32. chip_id: 64, zero when the host masks it.
        cpuid: None in version 2.
        launch_mitigations, current_mitigations: bit vectors, zero before version 5.
        signature_r, signature_s: integers as sent; S may be above n/2.
        raw: the 1184 bytes this was parsed from; empty for a report not built yet.
    """

    version: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    policy: int
    vmpl: int
    reported_tcb: Tcb
    current_tcb: Tcb
    committed_tcb: Tcb
    launch_tcb: Tcb
    chip_id: bytes
    cpuid: Cpuid | None
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    guest_svn: int = 0
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    signature_algorithm: int = ALGORITHM_ECDSA_P384_SHA384
    platform_info: int = 0
    flags: int = 0
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id: bytes = bytes(32)
    report_id_ma: bytes = b"\xff" * 32
    launch_mitigations: int = 0
    current_mitigations: int = 0
    signature_r: int = 0
    signature_s: int = 0
    raw: bytes = field(default=b"", repr=False, compare=False)

    @property
    def signed(self) -> bytes:
        """The 672 bytes the signature covers, as received."""
        return self.raw[:SIGNED_SIZE]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the signed bytes: the report's identity. The whole 1184 bytes are malleable."""
        return hashlib.sha256(self.signed).digest()

    @property
    def signature_der(self) -> bytes:
        """The signature as the DER pair that ECDSA libraries take."""
        return encode_dss_signature(self.signature_r, self.signature_s)

    @property
    def signing_key(self) -> SigningKey | int:
        """Which key signed; a plain int for a value AMD has reserved."""
        value = self.flags >> 2 & 0b111
        return SigningKey(value) if value in set(SigningKey) else value

    @property
    def author_key_enabled(self) -> bool:
        """`author_key_digest` means something."""
        return bool(self.flags & 1)

    @property
    def chip_key_masked(self) -> bool:
        """The firmware was told to write zeros instead of a signature."""
        return bool(self.flags & 2)

    @property
    def product_line(self) -> ProductLine | None:
        """From CPUID; None for version 2 and for processors we hold no root for."""
        return self.cpuid.product_line if self.cpuid else None


def parse_report(data: bytes) -> Report:
    """Read a report.

    Args:
        data: exactly 1184 bytes, public, from an untrusted party.

    Returns:
        The report; nothing about it has been verified.

    Raises:
        MalformedInput: another size, an unknown version, or reserved bytes that are not zero.

    Spec: AMD 56860, table ATTESTATION_REPORT.
    """
    if len(data) != REPORT_SIZE:
        raise MalformedInput(f"report: {len(data)} bytes, wanted {REPORT_SIZE}")
    raw = bytes(data)
    version = int.from_bytes(raw[:4], "little")
    if version not in VERSIONS:
        raise MalformedInput(
            f"report: version {version}, wanted {VERSIONS[0]} to {VERSIONS[-1]}",
            hint="version 1 comes from pre-release firmware and from fakes; it proves nothing",
        )
    (
        _, guest_svn, policy, family_id, image_id, vmpl, algorithm, current, platform_info,
        flags, zero_4c, report_data, measurement, host_data, id_key, author_key, report_id,
        report_id_ma, reported, cpuid_area, chip_id, committed, current_fw, zero_1eb,
        committed_fw, zero_1ef, launch, launch_mit, current_mit, zero_208,
    ) = _SIGNED.unpack_from(raw)  # fmt: skip
    cpuid = Cpuid(*cpuid_area[:3]) if version >= 3 else None
    _require_zero(
        {
            "0x04c": zero_4c,
            "flags bits 31:5": flags >> 5,
            "cpuid area": any(cpuid_area[3 if cpuid else 0 :]),
            "0x1eb": zero_1eb,
            "0x1ef": zero_1ef,
            "mitigation vectors before version 5": version < 5 and launch_mit | current_mit,
            "0x208": any(zero_208),
        }
    )
    layout = cpuid.layout if cpuid else _layout_without_cpuid(chip_id)
    r, s = _parse_signature(raw[SIGNED_SIZE:])
    return Report(
        version=version,
        report_data=report_data,
        measurement=measurement,
        host_data=host_data,
        policy=policy,
        vmpl=vmpl,
        reported_tcb=Tcb(reported, layout),
        current_tcb=Tcb(current, layout),
        committed_tcb=Tcb(committed, layout),
        launch_tcb=Tcb(launch, layout),
        chip_id=chip_id,
        cpuid=cpuid,
        current_version=_parse_firmware(current_fw),
        committed_version=_parse_firmware(committed_fw),
        guest_svn=guest_svn,
        family_id=family_id,
        image_id=image_id,
        signature_algorithm=algorithm,
        platform_info=platform_info,
        flags=flags,
        id_key_digest=id_key,
        author_key_digest=author_key,
        report_id=report_id,
        report_id_ma=report_id_ma,
        launch_mitigations=launch_mit,
        current_mitigations=current_mit,
        signature_r=r,
        signature_s=s,
        raw=raw,
    )


def build_report(report: Report) -> bytes:
    """Write a report; `raw` is ignored, so this is for signers and tests, never for verifying.

    Returns:
        1184 bytes, public; `build_report(parse_report(x)) == x`.

    Raises:
        MalformedInput: a field does not fit its place.
    """
    cpuid = report.cpuid
    try:
        signed = _SIGNED.pack(
            report.version, report.guest_svn, report.policy,
            _sized("family_id", report.family_id, 16), _sized("image_id", report.image_id, 16),
            report.vmpl, report.signature_algorithm, report.current_tcb.raw, report.platform_info,
            report.flags, 0, _sized("report_data", report.report_data, REPORT_DATA_SIZE),
            _sized("measurement", report.measurement, MEASUREMENT_SIZE),
            _sized("host_data", report.host_data, HOST_DATA_SIZE),
            _sized("id_key_digest", report.id_key_digest, 48),
            _sized("author_key_digest", report.author_key_digest, 48),
            _sized("report_id", report.report_id, 32), _sized("report_id_ma", report.report_id_ma, 32),
            report.reported_tcb.raw,
            bytes((cpuid.family, cpuid.model, cpuid.stepping)) if cpuid else b"",
            _sized("chip_id", report.chip_id, CHIP_ID_SIZE), report.committed_tcb.raw,
            _build_firmware(report.current_version), 0, _build_firmware(report.committed_version), 0,
            report.launch_tcb.raw, report.launch_mitigations, report.current_mitigations, b"",
        )  # fmt: skip
        return signed + _build_signature(report.signature_r, report.signature_s)
    except (struct.error, ValueError, OverflowError) as exc:
        raise MalformedInput(f"report: a field does not fit its place: {exc}") from exc


def _require_zero(areas: dict[str, object]) -> None:
    for name, value in areas.items():
        if value:
            raise MalformedInput(f"report: reserved area {name} is not zero")


def _layout_without_cpuid(chip_id: bytes) -> TcbLayout:
    """Version 2 names no processor; only Turin's chip id is 8 bytes followed by zeros."""
    turin = any(chip_id[:8]) and not any(chip_id[8:])
    return TcbLayout.TURIN if turin else TcbLayout.MILAN


def _parse_firmware(data: bytes) -> FirmwareVersion:
    build, minor, major = data
    return FirmwareVersion(major, minor, build)


def _build_firmware(version: FirmwareVersion) -> bytes:
    return bytes((version.build, version.minor, version.major))


def _parse_signature(data: bytes) -> tuple[int, int]:
    """R and S: 72-byte little-endian fields, a P-384 scalar in the low 48 bytes of each."""
    r, r_zero, s, s_zero = _SCALAR.unpack(data[:72]) + _SCALAR.unpack(data[72:144])
    _require_zero({"signature": any(r_zero) or any(s_zero) or any(data[_SIGNATURE_USED:])})
    return int.from_bytes(r, "little"), int.from_bytes(s, "little")


def _build_signature(r: int, s: int) -> bytes:
    halves = b"".join(_SCALAR.pack(n.to_bytes(48, "little"), b"") for n in (r, s))
    return halves.ljust(REPORT_SIZE - SIGNED_SIZE, b"\0")


def _sized(name: str, value: bytes, size: int) -> bytes:
    """`struct` would pad or cut in silence."""
    if len(value) != size:
        raise MalformedInput(f"report {name}: {len(value)} bytes, wanted {size}")
    return value
