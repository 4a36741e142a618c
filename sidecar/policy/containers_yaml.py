"""YAML from outside, read strictly, with the place of everything: for reading it and for editing its text.

Strategy: the library turns text into events; the tree is built here, where its size is counted with every
alias spelled out, and where a duplicate key, a tag, a merge key or a cycle is an error. Plain scalars are
read as Kubernetes reads them; one that YAML 1.1 and 1.2 read differently is neither text nor number here:
whoever wants it must say so with quotes.

Spec: YAML 1.2.2; sigs.k8s.io/yaml for what Kubernetes makes of a plain scalar.

Kind: pure
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from sidecar.errors import MalformedInput
from sidecar.policy.members import JsonObject

MAX_DOCUMENT = 1 << 20  # bytes; a Kubernetes object is at most 1.5 MiB as etcd stores it
_MAX_NODES = 50_000
_MAX_DEPTH = 48
_MAX_DOCUMENTS = 256
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
# Octal, hexadecimal, binary, base 60, dates, and one-letter truths: readers differ.
_UNSURE = re.compile(
    r"[-+]?0[0-9oxb_][0-9a-fA-F_]*|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|[-+]?[0-9]+_[0-9_.]*|[yYnN]|"
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|[-+]?[0-9]{19,}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|<<|=",
)
_TRUTHS = {word: word.lower() in ("true", "yes", "on") for base in ("true", "false", "yes", "no", "on", "off")
           for word in (base, base.capitalize(), base.upper())}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unsure:
    """A plain scalar that readers of YAML understand differently."""

    text: str


Scalar: TypeAlias = "str | int | float | bool | Unsure | None"


@dataclass(frozen=True, slots=True)
class Node:
    """One node and where it stands: offsets in characters, the column of its first character.

    `shared` marks a node that has an anchor or is reached through an alias: its text is not its own.
    """

    kind: Literal["mapping", "sequence", "scalar"]
    start: int
    end: int
    column: int
    flow: bool
    shared: bool
    size: int
    pairs: tuple[tuple[Node, Node], ...] = ()
    items: tuple[Node, ...] = ()
    scalar: Scalar = None

    def get(self, *path: str) -> Node | None:
        """The node that a path of keys leads to; None where a key is absent."""
        node: Node | None = self
        for name in path:
            if node is None:
                return None
            node = next((value for key, value in node.pairs if key.scalar == name), None)
        return node

    def value(self) -> object:
        """The node as plain objects and lists."""
        if self.kind == "mapping":
            made: JsonObject = {str(key.scalar): value.value() for key, value in self.pairs}
            return made
        if self.kind == "sequence":
            return [item.value() for item in self.items]
        return self.scalar


def read_documents(text: str, what: str, *, max_length: int = MAX_DOCUMENT) -> list[Node]:
    """The documents of a YAML stream; empty ones are left out.

    Raises:
        MalformedInput: not YAML, or YAML that is not read here: tags, merge keys, duplicate or odd keys,
            cycles; too long, too deep, too many nodes with aliases spelled out.
    """
    if len(text) > max_length:
        raise MalformedInput(f"{what}: {len(text)} characters, at most {max_length} are accepted")
    try:
        builder = _Builder(_events(text), what)
        return list(builder.documents())
    except YAMLError as exc:
        raise MalformedInput(f"{what}: not YAML: {_place(exc)}") from None
    except MalformedInput:
        raise
    except (RecursionError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as exc:
        # The parser lets some of its own slips out on damaged input; the input is still what is wrong.
        raise MalformedInput(f"{what}: not YAML: {type(exc).__name__}") from None


def _events(text: str) -> Iterator[Event]:
    yield from YAML(typ="safe", pure=True).parse(text)


def _place(exc: YAMLError) -> str:
    """Where the parser stopped and why; never the text around it, which may be secret."""
    mark, problem = getattr(exc, "problem_mark", None), getattr(exc, "problem", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return f"{where}{problem or type(exc).__name__}"


class _Builder:
    """Turns events into nodes; all limits are kept here."""

    def __init__(self, events: Iterator[Event], what: str) -> None:
        self._events = events
        self._what = what
        self._anchors: dict[str, Node | None] = {}
        self._total = 0

    def documents(self) -> Iterator[Node]:
        count = 0
        for event in self._events:
            if not isinstance(event, DocumentStartEvent):
                continue
            count += 1
            if count > _MAX_DOCUMENTS:
                raise MalformedInput(f"{self._what}: over {_MAX_DOCUMENTS} documents")
            self._anchors = {}
            node = self._node(next(self._events), 0)
            if node.kind != "scalar" or node.scalar is not None:
                yield node

    def _wrong(self, event: Event, words: str) -> MalformedInput:
        return MalformedInput(f"{self._what}: line {event.start_mark.line + 1}: {words}")

    def _node(self, event: Event, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise self._wrong(event, f"nested more than {_MAX_DEPTH} levels deep")
        if isinstance(event, AliasEvent):
            return self._alias(event)
        anchor = getattr(event, "anchor", None)
        tag = getattr(event, "tag", None)
        if tag is not None and not (
            isinstance(event, ScalarEvent) and str(tag) in ("!", "tag:yaml.org,2002:str")
        ):
            raise self._wrong(event, f"tag {str(tag)!r} is not supported")
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, ScalarEvent):
            node = self._scalar(event, tagged=tag is not None)
        elif isinstance(event, MappingStartEvent):
            node = self._mapping(event, depth)
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(event, depth)
        else:
            raise self._wrong(event, "something is missing")
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _counted(self, event: Event, size: int) -> int:
        if size > _MAX_NODES:
            raise self._wrong(event, f"over {_MAX_NODES} nodes, aliases spelled out")
        return size

    def _alias(self, event: AliasEvent) -> Node:
        if event.anchor not in self._anchors:
            raise self._wrong(event, "an alias without an anchor")
        node = self._anchors[event.anchor]
        if node is None:
            raise self._wrong(event, "an alias inside of what it stands for")
        return Node(
            node.kind, event.start_mark.index, event.end_mark.index, event.start_mark.column, node.flow, True,
            node.size, node.pairs, node.items, node.scalar,
        )  # fmt: skip

    def _scalar(self, event: ScalarEvent, *, tagged: bool) -> Node:
        plain = not event.style and not tagged
        scalar: Scalar = resolve_plain(event.value) if plain else event.value
        return Node(
            "scalar", event.start_mark.index, event.end_mark.index, event.start_mark.column,
            event.style not in ("|", ">"), event.anchor is not None or tagged, 1, scalar=scalar,
        )  # fmt: skip

    def _mapping(self, event: MappingStartEvent, depth: int) -> Node:
        pairs: list[tuple[Node, Node]] = []
        seen: set[str] = set()
        size, inner = 1, next(self._events)
        while not isinstance(inner, MappingEndEvent):
            key = self._key(inner, depth)
            if key.scalar in seen:
                raise self._wrong(inner, f"key {str(key.scalar)[:64]!r} appears twice")
            seen.add(str(key.scalar))
            value = self._node(next(self._events), depth + 1)
            pairs.append((key, value))
            size = self._counted(inner, size + 1 + value.size)
            inner = next(self._events)
        return Node(
            "mapping", event.start_mark.index, inner.end_mark.index, event.start_mark.column,
            bool(event.flow_style), event.anchor is not None, size, pairs=tuple(pairs),
        )  # fmt: skip

    def _key(self, event: Event, depth: int) -> Node:
        """A key is text: one that is not, as `on` or `1`, is taken as written."""
        key = self._node(event, depth + 1)
        if key.kind != "scalar" or not isinstance(event, ScalarEvent):
            raise self._wrong(event, "a key that is not plain text")
        if event.value == "<<" and not event.style:
            raise self._wrong(event, "merge keys (<<) are not supported")
        return Node(key.kind, key.start, key.end, key.column, key.flow, key.shared, 1, scalar=event.value)

    def _sequence(self, event: SequenceStartEvent, depth: int) -> Node:
        items: list[Node] = []
        size, inner = 1, next(self._events)
        while not isinstance(inner, SequenceEndEvent):
            items.append(self._node(inner, depth + 1))
            size = self._counted(inner, size + items[-1].size)
            inner = next(self._events)
        return Node(
            "sequence", event.start_mark.index, inner.end_mark.index, event.start_mark.column,
            bool(event.flow_style), event.anchor is not None, size, items=tuple(items),
        )  # fmt: skip


def resolve_plain(text: str) -> Scalar:
    """What a plain scalar stands for."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in _TRUTHS:
        return _TRUTHS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _UNSURE.fullmatch(text):
        return Unsure(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
