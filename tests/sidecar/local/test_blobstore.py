"""What the local blob service keeps: intervals against a model, and everything again after a restart."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import UsageError
from sidecar.local.bloblease import INFINITE, Lease
from sidecar.local.blobranges import RangeSet
from sidecar.local.blobstore import BlobRecord, BlobStore

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 20)), max_size=30)


@given(STEPS)
def test_intervals_agree_with_a_model(steps: list[tuple[bool, int, int]]) -> None:
    ranges, model = RangeSet(), bytearray(80)
    for adds, start, length in steps:
        (ranges.add if adds else ranges.remove)(start, start + length)
        model[start : start + length] = bytes([adds]) * length
    found = list(ranges.within(0, 80))
    assert bytes(model) == bytes(any(a <= i < b for a, b in found) for i in range(80))
    assert all(b < c for (_, b), (c, _) in pairwise(found)), "disjoint, and not touching"
    assert list(ranges.within(10, 20)) == [(max(a, 10), min(b, 20)) for a, b in found if a < 20 and b > 10]


def record(store: BlobStore, size: int) -> BlobRecord:
    place = ("images", "disk", "PageBlob", size, store.next_etag(), 1.5, 1.0, store.new_file(size))
    return BlobRecord(*place, metadata={"a": "b"}, lease=Lease("id", INFINITE, float("inf")))


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert store.add_container("images", public=True)
    assert not store.add_container("images", public=False)
    saved = record(store, 1 << 20)
    store.write(saved.file, 4096, b"x" * 4096)
    store.write(saved.file, 65536, b"y" * 4096)
    store.clear(saved.file, 65536, 4096)
    store.put_block(saved.file, "0a", b"block")
    store.save(saved)
    last = store.next_etag()
    store.close()
    store = BlobStore(tmp_path)
    assert (store.container("images"), store.container("other")) == (True, None)
    assert store.find("images", "disk") == saved
    assert store.read(saved.file, 0, 1 << 20) == bytes(4096) + b"x" * 4096 + bytes((1 << 20) - 8192)
    assert list(store.written(saved.file).within(0, 1 << 20)) == [(4096, 8192)]
    assert store.blocks(saved.file) == {"0a": 5}
    assert store.next_etag() > last
    store.delete(saved)
    assert store.find("images", "disk") is None
    assert list((tmp_path / "blobs").iterdir()) == []
    store.close()


def test_resizing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    saved = record(store, 8192)
    store.write(saved.file, 0, b"x" * 8192)
    store.resize(saved.file, 4096)
    store.resize(saved.file, 12288)
    assert store.read(saved.file, 0, 12288) == b"x" * 4096 + bytes(8192)
    assert list(store.written(saved.file).within(0, 12288)) == [(0, 4096)]
    store.close()


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="blobs in"):
        BlobStore(tmp_path / "missing")
