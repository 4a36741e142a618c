"""The report codec: every byte has a place, and bytes that must be zero are."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.snp.report import (
    REPORT_SIZE,
    SIGNED_SIZE,
    FirmwareVersion,
    ProductLine,
    Report,
    SigningKey,
    build_report,
    parse_report,
)
from sidecar.snp.software import SoftwareProcessor
from sidecar.snp.tcb import Cpuid, Tcb, TcbLayout

TURIN = Cpuid(0x1A, 0x02, 0x01)


def plain(**changes: object) -> Report:
    """A version 5 Turin report with a different value in every field."""
    tcbs = {
        f"{name}_tcb": Tcb(bytes((i, 1, 2, 3, 0, 0, 0, 0x51)), TcbLayout.TURIN)
        for i, name in enumerate(("reported", "current", "committed", "launch"))
    }
    report = Report(
        version=5,
        report_data=b"d" * 64,
        measurement=b"m" * 48,
        host_data=b"h" * 32,
        policy=0x3001F,
        vmpl=2,
        chip_id=b"chip-id!".ljust(64, b"\0"),
        cpuid=TURIN,
        current_version=FirmwareVersion(1, 58, 3),
        committed_version=FirmwareVersion(1, 57, 9),
        guest_svn=7,
        family_id=b"f" * 16,
        image_id=b"i" * 16,
        platform_info=0x65,
        flags=0b101,
        id_key_digest=b"k" * 48,
        author_key_digest=b"a" * 48,
        report_id=b"r" * 32,
        report_id_ma=b"M" * 32,
        launch_mitigations=0x3F,
        current_mitigations=0x3E,
        signature_r=2**383 + 5,
        signature_s=2**383 + 6,
        **tcbs,
    )
    return replace(report, **changes)


# Field, offset and size of AMD 56860, table ATTESTATION_REPORT, against the values of `plain`.
PLACES = [
    (0x000, (5).to_bytes(4, "little")),
    (0x004, (7).to_bytes(4, "little")),
    (0x008, (0x3001F).to_bytes(8, "little")),
    (0x010, b"f" * 16),
    (0x020, b"i" * 16),
    (0x030, (2).to_bytes(4, "little")),
    (0x034, (1).to_bytes(4, "little")),
    (0x038, bytes((1, 1, 2, 3, 0, 0, 0, 0x51))),
    (0x040, (0x65).to_bytes(8, "little")),
    (0x048, (0b101).to_bytes(4, "little")),
    (0x04C, bytes(4)),
    (0x050, b"d" * 64),
    (0x090, b"m" * 48),
    (0x0C0, b"h" * 32),
    (0x0E0, b"k" * 48),
    (0x110, b"a" * 48),
    (0x140, b"r" * 32),
    (0x160, b"M" * 32),
    (0x180, bytes((0, 1, 2, 3, 0, 0, 0, 0x51))),
    (0x188, bytes((0x1A, 0x02, 0x01)) + bytes(21)),
    (0x1A0, b"chip-id!" + bytes(56)),
    (0x1E0, bytes((2, 1, 2, 3, 0, 0, 0, 0x51))),
    (0x1E8, bytes((3, 58, 1, 0))),
    (0x1EC, bytes((9, 57, 1, 0))),
    (0x1F0, bytes((3, 1, 2, 3, 0, 0, 0, 0x51))),
    (0x1F8, (0x3F).to_bytes(8, "little")),
    (0x200, (0x3E).to_bytes(8, "little")),
    (0x208, bytes(152)),
    (0x2A0, (2**383 + 5).to_bytes(72, "little")),
    (0x2E8, (2**383 + 6).to_bytes(72, "little")),
    (0x330, bytes(368)),
]


def test_every_byte_has_its_place() -> None:
    data = build_report(plain())
    end = 0
    for offset, wanted in PLACES:
        assert offset == end, f"a gap before {offset:#x}"
        assert data[offset : offset + len(wanted)] == wanted, hex(offset)
        end = offset + len(wanted)
    assert end == len(data) == REPORT_SIZE


def test_parse_gives_back_what_was_built() -> None:
    report = plain()
    parsed = parse_report(build_report(report))
    assert parsed == report
    assert parsed.raw == build_report(report)
    assert parsed.signed == parsed.raw[:SIGNED_SIZE]
    assert parsed.signing_key is SigningKey.VLEK
    assert parsed.author_key_enabled
    assert not parsed.chip_key_masked
    assert parsed.product_line is ProductLine.TURIN
    assert parsed.reported_tcb.components == {
        "fmc": 0,
        "boot_loader": 1,
        "tee": 2,
        "snp": 3,
        "microcode": 0x51,
    }


def test_real_report_is_lossless(shared_snp: Path) -> None:
    data = (shared_snp / "snp_report.bin").read_bytes()
    report = parse_report(data)
    assert build_report(report) == data
    assert (report.version, report.cpuid, report.product_line) == (2, None, None)
    assert report.reported_tcb.components == {"boot_loader": 3, "tee": 0, "snp": 8, "microcode": 0x73}
    assert report.reported_tcb.hex == "7308000000000003"
    assert report.current_version == FirmwareVersion(1, 52, 4)
    assert report.signing_key is SigningKey.VCEK


@pytest.mark.parametrize("size", [0, 1, REPORT_SIZE - 1, REPORT_SIZE + 1, 4000])
def test_another_size_is_refused(size: int) -> None:
    with pytest.raises(MalformedInput, match=f"{size} bytes, wanted 1184"):
        parse_report(bytes(size))


@pytest.mark.parametrize("version", [0, 1, 6, 0xFFFFFFFF])
def test_unknown_versions_are_refused(version: int) -> None:
    data = version.to_bytes(4, "little") + build_report(plain())[4:]
    with pytest.raises(MalformedInput, match=f"version {version}, wanted 2 to 5"):
        parse_report(data)


RESERVED = [0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x208, 0x29F, 0x2D0, 0x2E7, 0x318, 0x32F, 0x330, 0x49F]


@pytest.mark.parametrize("offset", RESERVED)
def test_reserved_bytes_must_be_zero(offset: int) -> None:
    data = bytearray(build_report(plain()))
    data[offset] = 1
    with pytest.raises(MalformedInput, match="is not zero"):
        parse_report(bytes(data))


@pytest.mark.parametrize("flags", [1 << 5, 1 << 31])
def test_reserved_flags_must_be_zero(flags: int) -> None:
    with pytest.raises(MalformedInput, match="flags bits 31:5"):
        parse_report(build_report(plain(flags=flags)))


@pytest.mark.parametrize("version", [2, 3, 4])
def test_mitigation_vectors_belong_to_version_5(version: int) -> None:
    changes = {"version": version, "cpuid": None if version == 2 else TURIN}
    with pytest.raises(MalformedInput, match="mitigation"):
        parse_report(build_report(plain(**changes)))
    old = plain(**changes, launch_mitigations=0, current_mitigations=0)
    assert parse_report(build_report(old)) == old


def test_version_2_has_no_cpuid() -> None:
    data = bytearray(build_report(plain(version=2, cpuid=None, launch_mitigations=0, current_mitigations=0)))
    data[0x188] = 0x19
    with pytest.raises(MalformedInput, match="cpuid area"):
        parse_report(bytes(data))


@pytest.mark.parametrize(
    ("chip_id", "layout"),
    [
        (b"chip-id!".ljust(64, b"\0"), TcbLayout.TURIN),
        (b"c" * 64, TcbLayout.MILAN),
        (bytes(64), TcbLayout.MILAN),
    ],
)
def test_version_2_layout_follows_the_chip_id(chip_id: bytes, layout: TcbLayout) -> None:
    old = plain(version=2, cpuid=None, launch_mitigations=0, current_mitigations=0, chip_id=chip_id)
    assert parse_report(build_report(old)).reported_tcb.layout is layout


@given(policy=st.integers(0, 2**64 - 1), platform=st.integers(0, 2**64 - 1), flags=st.integers(0, 31))
def test_flag_words_keep_every_bit(policy: int, platform: int, flags: int) -> None:
    report = plain(policy=policy, platform_info=platform, flags=flags)
    assert parse_report(build_report(report)) == report


@given(st.binary(min_size=REPORT_SIZE, max_size=REPORT_SIZE))
def test_any_bytes_end_in_a_report_or_a_typed_error(data: bytes) -> None:
    with contextlib.suppress(MalformedInput):
        assert build_report(parse_report(data)) == data


@given(offset=st.integers(0, REPORT_SIZE - 1), value=st.integers(0, 255))
def test_one_changed_byte_is_lossless_or_refused(offset: int, value: int) -> None:
    data = bytearray(build_report(plain()))
    data[offset] = value
    with contextlib.suppress(MalformedInput):
        assert build_report(parse_report(bytes(data))) == bytes(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"report_data": b"short"},
        {"chip_id": b"x" * 65},
        {"guest_svn": 2**32},
        {"policy": -1},
        {"signature_r": 2**384},
        {"current_version": FirmwareVersion(1, 256, 0)},
    ],
)
def test_a_field_that_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedInput):
        build_report(plain(**changes))


def test_identity_ignores_the_malleable_part(snp_processor: SoftwareProcessor) -> None:
    data = snp_processor.sign_report(bytes(64))
    again = snp_processor.sign_report(bytes(64))
    assert data != again, "ECDSA signatures are randomised"
    assert parse_report(data).digest == parse_report(again).digest
