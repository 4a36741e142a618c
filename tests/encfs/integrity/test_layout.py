"""dm-integrity's geometry against figures that a real kernel gave, and superblocks that are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encfs.errors import EncfsError, LayoutError, MalformedHeader, UnsupportedFeature
from encfs.integrity.layout import Layout, build_superblock, new_layout, parse_superblock

HEADER = 16 << 20
MIB = 1 << 20


def kernel_layout(size: int, block_size: int) -> Layout:
    return new_layout(size - HEADER, device_size=size, block_size=block_size, interleave=15)


@pytest.mark.parametrize(
    ("size", "block_size", "sections", "provided"),
    [
        (32 * MIB, 4096, 1, 32_240),
        (32 * MIB, 512, 5, 30_272),
        (256 * MIB, 4096, 15, 247_660_544 // 512),
        (100 * MIB, 4096, 6, 168_904),
        (10 << 30, 4096, 496, 20_646_264),
        (17 * MIB, 4096, 1, 1_520),
    ],
)
def test_sizes_are_the_kernels(size: int, block_size: int, sections: int, provided: int) -> None:
    """Figures of `cryptsetup luksFormat --integrity hmac-sha256`, cryptsetup 2.6.1, Linux 6.1."""
    layout = kernel_layout(size, block_size)
    assert (layout.journal_sections, layout.provided) == (sections, provided)


def test_places_are_the_kernels() -> None:
    """The same image of 256 MiB: tags and data of some sectors, from the start of the segment."""
    layout = kernel_layout(256 * MIB, 4096)
    assert layout.first_area == 3968 * 512
    assert (layout.section_entries, layout.section_size, layout.run_size) == (32, 135_168, 256 * 512)
    for sector, tag, data in (
        (0, 2_031_616, 2_162_688),
        (8, 2_031_648, 2_166_784),
        (32_760, 2_162_656, 18_935_808),
        (32_768, 18_939_904, 19_070_976),
        (483_704, 238_847_456, 251_654_144),
    ):
        assert (layout.tag_offset(sector // 8), layout.data_offset(sector // 8)) == (tag, data)
    small = kernel_layout(32 * MIB, 512)
    assert (small.section_entries, small.section_size, small.run_size) == (80, 45_056, 1 << 20)


def test_superblock_is_the_kernels() -> None:
    data = build_superblock(kernel_layout(32 * MIB, 4096))
    assert data[:32].hex() == (
        "696e74656772740004 0f 2000 01000000 f07d000000000000 08000000 03 0c 0000".replace(" ", "")
    )
    assert not any(data[32:])
    assert build_superblock(kernel_layout(32 * MIB, 512))[28:30] == bytes([0, 15])


def test_too_small_a_segment_is_refused() -> None:
    with pytest.raises(LayoutError, match="too small"):
        kernel_layout(17 * MIB, 512)


@given(st.integers(1 << 11, 1 << 30), st.sampled_from([512, 4096]), st.integers(3, 20))
def test_round_trip_and_bounds(pages: int, block_size: int, interleave: int) -> None:
    segment = pages * 4096
    try:
        layout = new_layout(
            segment, device_size=segment + HEADER, block_size=block_size, interleave=interleave
        )
    except LayoutError:
        return
    assert parse_superblock(build_superblock(layout), segment_size=segment, block_size=block_size) == layout
    last = layout.blocks - 1
    assert layout.data_offset(last) + block_size <= segment
    assert layout.size <= segment
    places = {layout.tag_offset(b): b for b in (0, 1, last // 2, last)}
    assert len(places) == len({0, 1, last // 2, last})
    assert layout.data_offset(0) == layout.first_area + layout.run_size


LAYOUT = kernel_layout(32 * MIB, 4096)


@pytest.mark.parametrize(
    ("offset", "value", "error", "said"),
    [
        (0, b"x", MalformedHeader, "starts with"),
        (8, b"\x05", UnsupportedFeature, "version 5"),
        (9, b"\x02", MalformedHeader, "interleave 2"),
        (9, b"\x20", MalformedHeader, "interleave 32"),
        (10, b"\x30", UnsupportedFeature, "tags of 48"),
        (12, bytes(4), MalformedHeader, "0 journal sections"),
        (12, b"\xff\xff\xff\xff", MalformedHeader, "journal sections"),
        (12, b"\x02", MalformedHeader, "data sectors"),
        (16, b"\xf8", MalformedHeader, "data sectors"),
        (16, bytes(8), MalformedHeader, "0 data sectors"),
        (24, b"\x00", UnsupportedFeature, "flags 0x0"),
        (24, b"\x0a", UnsupportedFeature, "flags 0xa"),
        (24, b"\x0c", UnsupportedFeature, "flags 0xc"),
        (28, b"\x00", MalformedHeader, "blocks of 512"),
        (28, b"\xff", MalformedHeader, "blocks of"),
        (30, b"\x01", UnsupportedFeature, "reserved"),
        (32, b"\x01", UnsupportedFeature, "reserved"),
        (48, b"\x01", UnsupportedFeature, "reserved"),
    ],
)
def test_another_superblock_is_refused(offset: int, value: bytes, error: type[EncfsError], said: str) -> None:
    data = bytearray(build_superblock(LAYOUT))
    data[offset : offset + len(value)] = value
    with pytest.raises(error, match=said):
        parse_superblock(bytes(data), segment_size=16 * MIB, block_size=4096)


def test_a_file_that_grew_is_refused() -> None:
    """The kernel would rewrite the superblock and serve a tail that nobody can read."""
    with pytest.raises(MalformedHeader, match="data sectors"):
        parse_superblock(build_superblock(LAYOUT), segment_size=17 * MIB, block_size=4096)
