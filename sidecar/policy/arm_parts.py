"""A part of a template, read member by member: evaluated where it is looked at, and nowhere else.

Strategy: a part knows whether its value is still the template's text or the result of an expression. Results
are data: a bracket in them is never read as an expression again.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.errors import MalformedInput
from sidecar.policy.arm import Template
from sidecar.policy.arm_values import find, find_bool, find_text, find_words, kind
from sidecar.strictjson import JsonObject

_MAX_ITEMS = 1024


class Part:
    """One value of a template, with the words that name it in errors."""

    def __init__(self, template: Template, value: object, what: str, *, evaluated: bool = False) -> None:
        self.template = template
        self.what = what
        if isinstance(value, str) and not evaluated:
            value, evaluated = template.text(value), True
        self._raw = value
        self._evaluated = evaluated

    def value(self) -> object:
        """The whole value, every expression in it evaluated."""
        return self._raw if self._evaluated else self.template.value(self._raw)

    def as_object(self) -> JsonObject:
        """The whole value, which must be an object."""
        value = self.value()
        if not isinstance(value, dict):
            raise MalformedInput(f"{self.what}: is {kind(value)}, wanted an object")
        return value

    def member(self, name: str, what: str = "") -> Part | None:
        """A member whatever the case of its name; None where it is absent or null."""
        if self._raw is None:
            return None
        if not isinstance(self._raw, dict):
            raise MalformedInput(f"{self.what}: is {kind(self._raw)}, wanted an object")
        words = what or f"{self.what}: {name}"
        loop = None if self._evaluated else self._loop(self._raw, name)
        if loop is not None:
            made = find(_made(self.template, loop), name, words)
            return Part(self.template, made, words, evaluated=True)
        value = find(self._raw, name, self.what)
        if value is None:
            return None
        part = Part(self.template, value, words, evaluated=self._evaluated)
        return part if part._raw is not None else None

    @staticmethod
    def _loop(raw: JsonObject, name: str) -> JsonObject | None:
        """The loop that makes a member, where one does."""
        loops = find(raw, "copy", "copy")
        for loop in loops if isinstance(loops, list) else []:
            if isinstance(loop, dict) and str(find(loop, "name", "copy")).lower() == name.lower():
                return loop
        return None

    def items(self) -> Iterator[Part]:
        """The items of a list."""
        if not isinstance(self._raw, list):
            raise MalformedInput(f"{self.what}: is {kind(self._raw)}, wanted an array")
        if len(self._raw) > _MAX_ITEMS:
            raise MalformedInput(f"{self.what}: {len(self._raw)} items, at most {_MAX_ITEMS} are accepted")
        for number, item in enumerate(self._raw):
            yield Part(self.template, item, f"{self.what} {number}", evaluated=self._evaluated)

    def members(self, name: str) -> list[Part]:
        """The items of a list member; none where it is absent."""
        part = self.member(name)
        return [] if part is None else list(part.items())

    def text(self, name: str) -> str | None:
        """A string member; None where it is absent."""
        return find_text({name: self._member_value(name)}, name, self.what)

    def truth(self, name: str) -> bool | None:
        """A member that is true or false; None where it is absent."""
        return find_bool({name: self._member_value(name)}, name, self.what)

    def words(self, name: str) -> tuple[str, ...]:
        """A member that is a list of strings; none where it is absent."""
        return find_words({name: self._member_value(name)}, name, self.what)

    def _member_value(self, name: str) -> object:
        part = self.member(name)
        return None if part is None else part.value()

    def names(self) -> set[str]:
        """Names of an object's members, in lower case."""
        return {name.lower() for name in self._raw} if isinstance(self._raw, dict) else set()


def _made(template: Template, loop: JsonObject) -> JsonObject:
    made = template.value({"copy": [loop]})
    return made if isinstance(made, dict) else {}
