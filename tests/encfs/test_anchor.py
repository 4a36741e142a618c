"""Which images an anchor refuses, as values; and the volume's level against what is required."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encfs.anchor import MAX_TEXT, Anchor, Seen, State, build_anchor, judge, parse_anchor
from encfs.errors import ProtectionTooWeak, RolledBack, UsageError
from encfs.protection import Protection, check_protection, level_of, parse_protection

VOLUME = "0123abcd-0000-4000-8000-000000000000"
OTHER = "9123abcd-0000-4000-8000-000000000000"
ONE, TWO = bytes(32), bytes([1]) * 32


@given(st.integers(0, 10**18 - 1), st.sampled_from(State), st.binary(min_size=32, max_size=32))
def test_round_trip(generation: int, state: State, commitment: bytes) -> None:
    anchor = Anchor(VOLUME, generation, state, commitment)
    text = build_anchor(anchor)
    assert len(text) <= MAX_TEXT
    assert parse_anchor(text + "\n") == anchor


@given(st.text(max_size=600))
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not one of ours"):
        parse_anchor(text)


@pytest.mark.parametrize(
    ("anchor", "seen", "said"),
    [
        (Anchor(VOLUME, 5, State.CLOSED, ONE), Seen(VOLUME, 5, ONE), ""),
        (Anchor(VOLUME, 5, State.CLOSED, ONE), Seen(VOLUME, 6, ONE), "edited"),
        (Anchor(VOLUME, 5, State.OPEN, ONE), Seen(VOLUME, 5, TWO), "accepted once"),
        (Anchor(VOLUME, 5, State.OPEN, ONE), Seen(VOLUME, 6, TWO), "accepted once"),
    ],
)
def test_accepted(anchor: Anchor, seen: Seen, said: str) -> None:
    assert said in judge(anchor, seen)
    assert bool(said) == bool(judge(anchor, seen))


@pytest.mark.parametrize(
    ("anchor", "seen"),
    [
        (Anchor(VOLUME, 5, State.CLOSED, ONE), Seen(VOLUME, 4, ONE)),
        (Anchor(VOLUME, 5, State.CLOSED, ONE), Seen(VOLUME, 5, TWO)),
        (Anchor(VOLUME, 5, State.CLOSED, ONE), Seen(VOLUME, 6, TWO)),
        (Anchor(VOLUME, 5, State.CLOSED, ONE), Seen(OTHER, 5, ONE)),
        (Anchor(VOLUME, 5, State.OPEN, ONE), Seen(VOLUME, 4, ONE)),
        (Anchor(VOLUME, 5, State.OPEN, ONE), Seen(OTHER, 7, ONE)),
    ],
)
def test_refused(anchor: Anchor, seen: Seen) -> None:
    with pytest.raises(RolledBack):
        judge(anchor, seen)


def test_levels_include_those_below() -> None:
    ladder = [
        level_of(integrity=False, anchored=True, verified=False),
        level_of(integrity=True, anchored=False, verified=False),
        level_of(integrity=True, anchored=True, verified=False),
        level_of(integrity=False, anchored=False, verified=True),
    ]
    assert ladder == list(Protection)
    for number, seen in enumerate(ladder):
        for required in ladder[: number + 1]:
            check_protection(required, seen)
        for required in ladder[number + 1 :]:
            with pytest.raises(ProtectionTooWeak):
                check_protection(required, seen)
    check_protection(None, ladder[0])
    with pytest.raises(UsageError):
        parse_protection("paranoia")
