"""A policy put into the text it was made from, and nothing else of the text touched.

Strategy: the document is read for the places of its values, the one value is replaced or the one member added
in the text, and the result is read again: unless it is the old document with that one change, it is refused.

Rules: indentation, line ends and separators are taken from the neighbours.

Kind: pure
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sidecar.errors import MalformedInput
from sidecar.policy.arm import MAX_TEMPLATE, template_text
from sidecar.strictjson import load_json

PropertyPath = Sequence[str | int]
_BLANK = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,\]\}]+')


def inject_template(text: str, resource: PropertyPath, encoded: str) -> str:
    """The template with the policy as `ccePolicy` of one resource.

    Args:
        text: the template.
        resource: where the resource is in it.
        encoded: the policy's base64.

    Raises:
        MalformedInput: there is no object to put it into.
    """
    before = _load(text)
    path = [*resource, "properties", "confidentialComputeProperties", "ccePolicy"]
    after = set_member(text, path, encoded)
    if _load(after) != _with(before, path, encoded):
        raise MalformedInput("template: the policy could not be put in without changing something else")
    return after


def _load(text: str) -> object:
    # The policy itself may be larger than the template it goes into.
    return load_json(template_text(text), what="template", max_bytes=2 * MAX_TEMPLATE)


def set_member(text: str, path: PropertyPath, value: str) -> str:
    """JSON text with one string set; missing members are added, names are matched without case."""
    node, step = _Reader(template_text(text)).document(), 0
    while step < len(path):
        child = node.child(path[step])
        if child is None:
            return _add(text, node, path[step:], value)
        node, step = child, step + 1
    return text[: node.start] + json.dumps(value) + text[node.end :]


@dataclass(slots=True)
class _Value:
    """A JSON value and its place; a member's key starts at `key_start` and ends before `key_end`."""

    start: int
    end: int = 0
    members: list[tuple[str, int, int, _Value]] = field(default_factory=list)
    items: list[_Value] = field(default_factory=list)
    is_object: bool = False

    def child(self, name: str | int) -> _Value | None:
        if isinstance(name, int):
            return self.items[name] if name < len(self.items) else None
        if not self.is_object:
            raise MalformedInput(
                f"template: wanted an object to hold {name!r}", hint="write it out as an object"
            )
        return next((value for key, _, _, value in self.members if key.lower() == name.lower()), None)


class _Reader:
    """Places of values in text that is known to be JSON of bounded depth."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def document(self) -> _Value:
        self._skip()
        return self._value()

    def _skip(self) -> None:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _scalar(self) -> str:
        match = _SCALAR.match(self._text, self._at)
        if match is None:
            raise MalformedInput(f"template: not JSON at character {self._at}")
        self._at = match.end()
        return match[0]

    def _value(self) -> _Value:
        value = _Value(self._at)
        opening = self._text[self._at]
        if opening == "{":
            value.is_object = True
            self._each("}", lambda: value.members.append(self._member()))
        elif opening == "[":
            self._each("]", lambda: value.items.append(self._value()))
        else:
            self._scalar()
        value.end = self._at
        return value

    def _member(self) -> tuple[str, int, int, _Value]:
        start = self._at
        key = json.loads(self._scalar())
        end = self._at
        self._skip()
        self._at += 1
        self._skip()
        return key, start, end, self._value()

    def _each(self, closing: str, read: Callable[[], None]) -> None:
        self._at += 1
        self._skip()
        while self._text[self._at] != closing:
            if self._text[self._at] == ",":
                self._at += 1
                self._skip()
            read()
            self._skip()
        self._at += 1


def _add(text: str, node: _Value, path: PropertyPath, value: str) -> str:
    """The text with a new last member of an object."""
    if not node.is_object or any(isinstance(step, int) for step in path):
        raise MalformedInput(f"template: wanted an object to hold {path[0]!r}")
    newline = "\r\n" if "\r\n" in text else "\n"
    unit = _unit(text)
    if node.members:
        _, key_start, key_end, last = node.members[-1]
        before = re.search(r"[ \t\r\n]*$", text[node.start + 1 : key_start])
        gap = before[0] if before else ""
        colon = text[key_end : last.start]
        member = _member_text(path, value, gap, unit, colon)
        return f"{text[: last.end]},{gap or ' '}{member}{text[last.end :]}"
    line_start = text.rfind("\n", 0, node.start) + 1
    indent = re.match(r"[ \t]*", text[line_start:])
    outer = newline + (indent[0] if indent else "") if "\n" in text else ""
    gap = outer + unit if outer else ""
    member = _member_text(path, value, gap, unit, ": ")
    return f"{text[: node.start]}{{{gap}{member}{outer}}}{text[node.end :]}"


def _member_text(path: PropertyPath, value: str, gap: str, unit: str, colon: str) -> str:
    """`"name": value`, the value wrapped in one object for each further name."""
    name = json.dumps(path[0])
    if len(path) == 1:
        return f"{name}{colon}{json.dumps(value)}"
    inner = gap + unit if "\n" in gap else ""
    return (
        f"{name}{colon}{{{inner}{_member_text(path[1:], value, inner, unit, colon)}{gap if inner else ''}}}"
    )


def _unit(text: str) -> str:
    """One step of indentation, as the document's first indented line has it."""
    match = re.search(r"\n([ \t]+)\S", text)
    return match[1] if match else "  "


def _with(document: object, path: PropertyPath, value: str) -> object:
    """A copy of the document with one string set."""
    made = copy.deepcopy(document)
    node = made
    for step in path[:-1]:
        node = _step(node, step)
    if isinstance(node, dict):
        node[_key(node, str(path[-1]))] = value
    return made


def _step(node: object, step: str | int) -> object:
    if isinstance(node, list) and isinstance(step, int):
        return node[step]
    if isinstance(node, dict):
        key = _key(node, str(step))
        if node.get(key) is None:
            node[key] = {}
        return node[key]
    return None


def _key(node: dict[str, object], name: str) -> str:
    return next((key for key in node if key.lower() == name.lower()), name)
