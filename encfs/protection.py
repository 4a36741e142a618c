"""How well a volume is protected against a store that changes it, and whether that is enough.

    encryption   a changed sector decrypts to garbage, unnoticed; an older one is not noticed either
    integrity    every sector has an authentication tag: a changed one is an error, an older one is not
    rollback     integrity, and an anchor outside the store: an older volume is refused when it is mounted
    verity       a hash tree with a root hash from elsewhere: every change is an error; read-only

What is asked for comes from settings that the store's owner cannot change. It is held against the header
before a key is asked for, and again when the image is opened.

Kind: pure
"""

from __future__ import annotations

from enum import StrEnum

from encfs.errors import ProtectionTooWeak, UsageError


class Protection(StrEnum):
    """Levels, the weakest first; each includes those before it."""

    ENCRYPTION = "encryption"
    INTEGRITY = "integrity"
    ROLLBACK = "rollback"
    VERITY = "verity"


_ORDER = tuple(Protection)
_HINTS = {
    Protection.INTEGRITY: "make the image with encfs create --integrity hmac-sha256, or seal it",
    Protection.ROLLBACK: "give an image with integrity its --anchor, or seal it and give its root hash",
    Protection.VERITY: "seal the image (encfs seal) and give its root hash",
}


def parse_protection(text: str) -> Protection:
    """A level by its name.

    Raises:
        UsageError: there is no such level.
    """
    try:
        return Protection(text)
    except ValueError:
        raise UsageError(f"protection {text[:40]!r}: wanted one of {', '.join(_ORDER)}") from None


def level_of(*, integrity: bool, anchored: bool, verified: bool) -> Protection:
    """The level of an image: does its header claim integrity, has it an anchor, a root hash?"""
    if verified:
        return Protection.VERITY
    if integrity:
        return Protection.ROLLBACK if anchored else Protection.INTEGRITY
    return Protection.ENCRYPTION


def check_protection(required: Protection | None, seen: Protection) -> None:
    """Refuse an image below the level required.

    Raises:
        ProtectionTooWeak: it is.
    """
    if required is None or _ORDER.index(seen) >= _ORDER.index(required):
        return
    raise ProtectionTooWeak(f"image: protected by {seen} only, wanted {required}", hint=_HINTS[required])
