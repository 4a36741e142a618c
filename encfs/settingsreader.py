"""Reads members of a JSON object and collects what is wrong, instead of ending at the first mistake.

Rules: names match in any case; null means absent; a member that nobody asked for is named in a warning. No
value of a member is repeated here, for it may be secret.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Mistakes:
    """What was found: mistakes that make the settings unusable, and warnings."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.warnings: list[str] = []

    def add(self, text: str) -> None:
        """A mistake; the same one counts once."""
        if text not in self.found:
            self.found.append(text)

    def warn(self, text: str) -> None:
        """Something odd that does no harm."""
        self.warnings.append(text)


class Member:
    """One JSON object at a path of the settings.

    Args:
        value: the object.
        path: of it, like `azure_filesystems[0].key`; empty for the whole.
        mistakes: where to report.
    """

    def __init__(self, value: Mapping[str, object], path: str, mistakes: Mistakes) -> None:
        self.path = path
        self._mistakes = mistakes
        self._parts: dict[str, Member] = {}
        self._lists: list[Member] = []
        self._asked: dict[str, str] = {}
        self._value: dict[str, object] = {}
        for name, content in value.items():
            if name.lower() in self._value:
                mistakes.add(f"{self._at(name[:40])}: given twice")
            self._value[name.lower()] = content

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def mistake(self, name: str, what: str) -> None:
        """Something is wrong with a member."""
        self._mistakes.add(f"{self._at(name)}: {what}")

    def _get(self, name: str, wanted: str) -> object:
        self._asked[name] = wanted
        return self._value.get(name)

    def has(self, name: str) -> bool:
        """Whether a member is there and not null."""
        return self._value.get(name) is not None

    def text(self, name: str) -> str:
        """A string; empty when absent or wrong."""
        value = self._get(name, "string")
        if value is None or isinstance(value, str):
            return value or ""
        self.mistake(name, f"{_kind(value)}, wanted a string")
        return ""

    def flag(self, name: str) -> bool:
        """A boolean; False when absent or wrong."""
        value = self._get(name, "boolean")
        if value is None or isinstance(value, bool):
            return bool(value)
        self.mistake(name, f"{_kind(value)}, wanted true or false")
        return False

    def hex(self, name: str) -> bytes | None:
        """Bytes from hex digits; None when absent, empty or wrong."""
        text = self.text(name)
        self._asked[name] = "hex digits"
        try:
            return bytes.fromhex(text) or None
        except ValueError:
            self.mistake(name, "not hex digits")
            return None

    def strings(self, name: str) -> None:
        """Check a list of strings that nobody needs."""
        value = self._get(name, "array of strings")
        if value is not None and not (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        ):
            self.mistake(name, f"{_kind(value)}, wanted an array of strings")

    def part(self, name: str) -> Member:
        """An object; an empty one when absent or wrong."""
        if name not in self._parts:
            value = self._get(name, "object")
            if value is not None and not isinstance(value, dict):
                self.mistake(name, f"{_kind(value)}, wanted an object")
            found = value if isinstance(value, dict) else {}
            self._parts[name] = Member(found, self._at(name), self._mistakes)
        return self._parts[name]

    def parts(self, name: str) -> list[Member]:
        """An array of objects; empty when absent or wrong."""
        value = self._get(name, "array of objects")
        if value is not None and not isinstance(value, list):
            self.mistake(name, f"{_kind(value)}, wanted an array")
        for index, item in enumerate(value if isinstance(value, list) else []):
            path = f"{name}[{index}]"
            if not isinstance(item, dict):
                self.mistake(path, f"{_kind(item)}, wanted an object")
            self._lists.append(Member(item if isinstance(item, dict) else {}, self._at(path), self._mistakes))
        return self._lists

    def asked(self) -> Iterator[tuple[str, str]]:
        """Path and form of every member asked for so far, here and below; for the documentation."""
        for name, wanted in self._asked.items():
            if name not in self._parts:
                yield self._at(name), wanted
        for below in (*self._parts.values(), *self._lists):
            yield from below.asked()

    def finish(self) -> None:
        """Name members that nobody asked for, here and below; call it after everything was read."""
        for name in self._value:
            if name not in self._asked:
                self._mistakes.warn(f"{self._at(name[:60])}: unknown, ignored")
        for below in (*self._parts.values(), *self._lists):
            below.finish()


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "something else")
