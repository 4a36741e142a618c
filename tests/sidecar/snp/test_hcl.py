"""The paravisor's blob: report and runtime data, bound by a digest."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.snp.hcl import build_hcl, parse_hcl
from sidecar.snp.software import SoftwareProcessor

RUNTIME = b'{"keys":[],"user-data":"00"}'


@pytest.fixture(scope="module")
def blob(snp_processor: SoftwareProcessor) -> bytes:
    return make(snp_processor, RUNTIME)


def make(processor: SoftwareProcessor, runtime: bytes) -> bytes:
    digest = hashlib.sha256(runtime).digest()
    return build_hcl(processor.sign_report(digest.ljust(64, b"\0")), runtime)


def put(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + struct.pack("<I", value) + data[offset + 4 :]


def test_report_and_runtime_data(blob: bytes) -> None:
    for padded in (blob, blob.ljust(2600, b"\0")):
        found = parse_hcl(padded)
        assert found.runtime_data == RUNTIME
        assert found.report == blob[32:1216]
        assert found.parsed.report_data == hashlib.sha256(RUNTIME).digest() + bytes(32)


def test_places(blob: bytes) -> None:
    """Header: magic, version, whole size, request 2. Runtime: size, version 1, SNP 2, SHA-256 1, length."""
    assert struct.unpack("<4s4I12s", blob[:32]) == (b"HCLA", 1, len(blob), 2, 0, bytes(12))
    assert struct.unpack("<5I", blob[1216:1236]) == (20 + len(RUNTIME), 1, 2, 1, len(RUNTIME))


@pytest.mark.parametrize(("kind", "name"), [(2, "sha384"), (3, "sha512")])
def test_other_digests(snp_processor: SoftwareProcessor, kind: int, name: str) -> None:
    digest = hashlib.new(name, RUNTIME).digest()
    data = build_hcl(snp_processor.sign_report(digest.ljust(64, b"\0")), RUNTIME)
    assert parse_hcl(put(data, 1228, kind)).runtime_data == RUNTIME
    with pytest.raises(MalformedInput, match="not the digest"):
        parse_hcl(data)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, 0, "magic"),
        (4, 3, "version 3"),
        (8, 1, "does not fit"),
        (12, 1, "request 1"),
        (16, 5, "status 0x5"),
        (20, 1, "magic"),
        (32, 1, "report: version 1"),
        (1216, 0, "does not fit"),
        (1220, 2, "version 2"),
        (1224, 4, "report type 4"),
        (1228, 0, "hash 0"),
        (1232, 0, "does not fit"),
        (1232, 0xFFFFFFFF, "does not fit"),
        (1240, 0, "not the digest"),
    ],
)
def test_one_mistake(blob: bytes, offset: int, value: int, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_hcl(put(blob, offset, value))


@pytest.mark.parametrize("size", [0, 31, 1235, 16385])
def test_absurd_sizes(blob: bytes, size: int) -> None:
    with pytest.raises(MalformedInput, match=f"{size} bytes, wanted"):
        parse_hcl(blob[:size].ljust(size, b"\0"))


def test_consistent_lie_about_the_length(blob: bytes) -> None:
    """Both lengths agree with each other and not with the data."""
    longer = len(RUNTIME) + 1
    data = put(put(put(blob, 1216, 20 + longer), 1232, longer), 8, len(blob) + 1)
    with pytest.raises(MalformedInput, match="does not fit"):
        parse_hcl(data)


@given(position=st.integers(0, 4000), value=st.integers(0, 255), cut=st.integers(0, 1300))
def test_damage_ends_in_a_typed_error_or_changes_nothing(
    blob: bytes, position: int, value: int, cut: int
) -> None:
    data = bytearray(blob)
    data[position % len(data)] = value
    try:
        assert parse_hcl(bytes(data[: len(data) - cut])).runtime_data == RUNTIME
    except MalformedInput:
        return
