"""The sliding window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.local.throttle import Bucket


def test_window_slides() -> None:
    bucket = Bucket(limit=2, period=10)
    assert [bucket.take(t) for t in (0, 1, 2, 9.9, 10, 10.5, 11, 12)] == [
        True,
        True,
        False,
        False,
        True,
        False,
        True,
        False,
    ]


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 5))
def test_never_more_than_the_limit_in_any_window(steps: list[float], limit: int) -> None:
    bucket, now, taken = Bucket(limit=limit, period=10), 0.0, []
    for step in steps:
        now += step
        if bucket.take(now):
            taken.append(now)
    for start in taken:
        assert sum(start <= t < start + 10 for t in taken) <= limit
