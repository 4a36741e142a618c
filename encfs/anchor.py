"""Tells an older image from the last one: what of a volume is kept outside its store.

An anchor is one line of public text: volume, generation of its header, state, commitment to its data. A mount
for writing raises the generation in the authenticated header, and then anchors it as `open`; an unmount
anchors the commitment as `closed`. So at the next mount:

- closed: header at least as new, and exactly the data that was there at the unmount.
- open: the volume was not unmounted. Its header must be of that mount or later. Accepted once, because the
  mount that accepts it raises the generation again; which state since the last mount it is, nobody can tell.

Whoever writes anchors is trusted. The store is not: without the volume key it cannot make a newer header.

Kind: pure
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from encfs.errors import RolledBack, UsageError

MAX_TEXT = 256  # what one tag of a vault's key holds
_LINE = re.compile(r"encfs-anchor-1 ([0-9a-f-]{36}) ([0-9]{1,18}) (open|closed) ([0-9a-f]{64})")


class State(StrEnum):
    """Of an anchored volume."""

    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Anchor:
    """What is kept; all public.

    Attributes:
        volume: UUID of the LUKS2 header.
        generation: of its authenticated header.
        state: whether it was unmounted since.
        commitment: 32 bytes: to the data when `closed`, of the last unmount when `open`.
    """

    volume: str
    generation: int
    state: State
    commitment: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """What an image shows now, its header authenticated."""

    volume: str
    generation: int
    commitment: bytes


def build_anchor(anchor: Anchor) -> str:
    """One line of at most 256 characters."""
    return f"encfs-anchor-1 {anchor.volume} {anchor.generation} {anchor.state} {anchor.commitment.hex()}"


def parse_anchor(text: str) -> Anchor:
    """Read a line.

    Raises:
        UsageError: it is no anchor.
    """
    match = _LINE.fullmatch(text.strip()) if len(text) <= 2 * MAX_TEXT else None
    if match is None:
        raise UsageError(
            f"anchor {text[:40]!r}: not one of ours",
            hint="restore it; without it nobody can tell whether the volume was put back to an older state",
        )
    return Anchor(match[1], int(match[2]), State(match[3]), bytes.fromhex(match[4]))


def judge(anchor: Anchor, seen: Seen) -> str:
    """Whether the image is the last one.

    Returns:
        What to log, empty when it is exactly as it was left.

    Raises:
        RolledBack: it is older, changed, or another volume.
    """
    if seen.volume != anchor.volume:
        raise RolledBack(f"image: volume {seen.volume}, anchored was {anchor.volume}", hint=_HINT)
    if seen.generation < anchor.generation:
        raise RolledBack(
            f"image: generation {seen.generation} of its header, anchored was {anchor.generation}", hint=_HINT
        )
    if anchor.state is State.OPEN:
        return "was not unmounted; accepted once, though nobody can tell which of its last states it is"
    if seen.commitment != anchor.commitment:
        raise RolledBack(
            "image: its data is not what it was when it was unmounted last",
            hint=f"it was mounted by another tool, or without its anchor, or changed by its store. {_HINT}",
        )
    if seen.generation > anchor.generation:
        return "its header was edited since it was unmounted; its data is as it was"
    return ""


_HINT = "restore the newest copy; if you restored an older one on purpose: --accept-rollback, once"
