"""Typed access to one JSON object of the metadata, with the object's name in every error.

`Fields` remembers which members were read; `done()` refuses the rest by name, because a member that we
do not know may change the meaning of those that we do.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from encfs.errors import MalformedMetadata, UnsupportedFeature

Json: TypeAlias = dict[str, Any]
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")


class Fields:
    """One JSON object, read member by member.

    Args:
        name: what the object is, for error messages, as in `keyslot 0 area`.
        value: the JSON value, untrusted.

    Raises:
        MalformedMetadata: the value is not an object. The readers below raise it for a member that is
            missing, has another type, or is out of range.
    """

    def __init__(self, name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise MalformedMetadata(f"{name}: {kind(value)}, wanted an object")
        self.name = name
        self._value: Json = value
        self._unread = set(value)

    def has(self, member: str) -> bool:
        return member in self._value

    def take(self, member: str) -> object:
        """The raw value of a member that must exist."""
        if member not in self._value:
            raise MalformedMetadata(f"{self.name}: member {member!r} is missing")
        self._unread.discard(member)
        return self._value[member]

    def string(self, member: str) -> str:
        """A non-empty string."""
        value = self.take(member)
        if not isinstance(value, str) or not value:
            raise self.wrong(member, value, "a string")
        return value

    def uint32(self, member: str) -> int:
        """An integer of 0 to 2**32 - 1; a boolean is none."""
        value = self.take(member)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
            raise self.wrong(member, value, "an integer of 32 bits")
        return value

    def uint64(self, member: str) -> int:
        """An integer of 64 bits in a string of decimal digits, the form of LUKS2 for offsets and sizes."""
        value = self.string(member)
        number = decimal(value)
        if number is None or number >= 2**64:
            raise self.wrong(member, value, "a decimal string of 64 bits")
        return number

    def binary(self, member: str) -> bytes:
        """Bytes in base64 with padding."""
        value = self.string(member)
        try:
            return base64.b64decode(value.encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError) as exc:
            raise self.wrong(member, value, "base64") from exc

    def strings(self, member: str) -> list[str]:
        """An array of strings, without repetition."""
        value = self.take(member)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(member, value, "an array of strings")
        if len(set(value)) != len(value):
            raise MalformedMetadata(f"{self.name}: {member} names something twice")
        return value

    def numbers(self, member: str) -> tuple[int, ...]:
        """An array of object names, which are decimal numbers in strings."""
        found = [decimal(item) for item in self.strings(member)]
        if any(number is None for number in found):
            raise MalformedMetadata(f"{self.name}: {member} names an object that is no number")
        return tuple(number for number in found if number is not None)

    def nested(self, member: str) -> Fields:
        """A nested object."""
        return Fields(f"{self.name} {member}", self.take(member))

    def rest(self) -> Json:
        """The members that nobody read, for objects that are open by design."""
        left = {member: self._value[member] for member in self._value if member in self._unread}
        self._unread.clear()
        return left

    def done(self) -> None:
        """Refuse members that nobody read.

        Raises:
            UnsupportedFeature: there is one; the message names it.
        """
        for member in sorted(self._unread):
            raise UnsupportedFeature(
                f"{self.name}: unknown member {printable(member)}",
                hint="the header was written by a newer or another tool; nothing was opened",
            )

    def wrong(self, member: str, seen: object, wanted: str) -> MalformedMetadata:
        """The error for a member of another type or out of range."""
        return MalformedMetadata(f"{self.name}: {member} is {kind(seen)}, wanted {wanted}")


def numbered(name: str, value: object, limit: int) -> dict[int, object]:
    """An object whose member names are decimal numbers below `limit`, as keyslots and tokens are.

    Raises:
        MalformedMetadata: another type, a name that is no number, or a number out of range.
    """
    if not isinstance(value, dict):
        raise MalformedMetadata(f"{name}: {kind(value)}, wanted an object")
    found: dict[int, object] = {}
    for key, item in value.items():
        number = decimal(key)
        if number is None or number >= limit:
            raise MalformedMetadata(f"{name}: name {printable(key)}, wanted a number below {limit}")
        found[number] = item
    return dict(sorted(found.items()))


def decimal(text: str) -> int | None:
    """The number a canonical decimal string stands for, else None."""
    return int(text) if _DECIMAL.fullmatch(text) else None


def kind(value: object) -> str:
    """What a JSON value is, short enough and plain enough for an error message."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "an array"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def printable(text: str) -> str:
    """A quoted, shortened, escaped form of an untrusted string."""
    return ascii(text if len(text) <= 48 else text[:45] + "...")
