"""The map of what was never written, against a plain model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from encfs.block.blobholes import MAX_MAP, MIN_GRANULE, HoleMap

SIZE = 64 * MIN_GRANULE
RANGES = st.lists(st.tuples(st.integers(0, SIZE // 512 - 1), st.integers(0, 40)), max_size=12)


@given(RANGES, st.integers(0, SIZE // 512 - 1), st.integers(0, 300))
def test_no_written_byte_is_ever_outside(ranges: list[tuple[int, int]], first: int, count: int) -> None:
    holes, model = HoleMap(SIZE), bytearray(SIZE)
    for at, length in ranges:
        length = min(length * 512, SIZE - at * 512)
        holes.mark(at * 512, length)
        model[at * 512 : at * 512 + length] = b"x" * length
    offset, length = first * 512, min(count * 512, SIZE - first * 512)
    start, end = holes.data_in(offset, length)
    assert offset <= start <= end <= offset + length
    assert b"x" not in model[offset:start]
    assert b"x" not in model[end : offset + length]
    # And nothing is asked for that lies a whole granule away from what was written.
    if start < end:
        around = model[start - start % MIN_GRANULE : start + MIN_GRANULE]
        assert b"x" in around


def test_the_map_is_bounded_and_a_full_one_has_no_holes() -> None:
    largest = HoleMap(8 << 40)
    assert (8 << 40) // largest.granule <= MAX_MAP
    largest.mark((8 << 40) - 512, 512)
    assert largest.data_in(0, 8 << 40)[1] == 8 << 40
    full = HoleMap(1000 * 512, full=True)
    assert full.data_in(512, 4096) == (512, 4608)
    assert full.data_bytes >= 1000 * 512
