"""ARM template expressions: text to tree. Nothing is evaluated here.

A string that begins with `[` and ends with `]` is an expression; `[[` at the beginning is a literal `[`.
An expression is a literal, a function call, or either of them followed by `.name` or `[index]` steps.

Rules: what the grammar does not know is an error that quotes the expression, never literal text: a policy
made from an expression that was not understood would admit a container that nobody wrote down.

Spec: Azure Resource Manager template syntax, "Syntax and expressions"; string literals double their quotes.

Kind: pure
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from sidecar.errors import MalformedInput

MAX_EXPRESSION = 24_576  # characters; Resource Manager's own limit for an expression
MAX_NESTING = 48

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_$-]*)|(?P<number>-?[0-9]+)|(?P<text>'(?:[^']|'')*')|(?P<sign>[()\[\].,]))"
)


@dataclass(frozen=True, slots=True)
class Literal:
    """A string or an integer written in the expression."""

    value: str | int


@dataclass(frozen=True, slots=True)
class Call:
    """A function with its arguments; the name as written, with its namespace if it has one."""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A member or an element of what `base` yields."""

    base: Node
    key: Node


Node: TypeAlias = Literal | Call | Step


def is_expression(text: str) -> bool:
    """Whether the string is an expression and not literal text."""
    return text.startswith("[") and text.endswith("]") and not text.startswith("[[")


def literal_text(text: str) -> str:
    """The text that a string which is no expression stands for."""
    return text[1:] if text.startswith("[[") else text


def parse(text: str) -> Node:
    """Read one expression, brackets included.

    Raises:
        MalformedInput: too long, nested too deep, or not of the grammar.
    """
    if len(text) > MAX_EXPRESSION:
        raise MalformedInput(
            f"expression {shown(text)}: {len(text)} characters, at most {MAX_EXPRESSION} are accepted"
        )
    parser = _Parser(text)
    node = parser.node(0)
    parser.end()
    return node


def shown(text: str) -> str:
    """An expression for an error message, shortened."""
    return repr(text if len(text) <= 120 else f"{text[:117]}...")


class _Parser:
    """Recursive descent over a token list; the depth is bounded by MAX_NESTING."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._scan(text[1:-1]))
        self._at = 0

    def _scan(self, body: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        body = body.rstrip()
        while at < len(body):
            match = _TOKEN.match(body, at)
            if match is None or match.lastgroup is None:
                raise self._wrong(f"character {at + 2} begins nothing known")
            tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
        return tokens

    def _wrong(self, words: str) -> MalformedInput:
        return MalformedInput(
            f"expression {shown(self._text)}: {words}",
            hint="literal text that begins with a bracket is written with two: [[",
        )

    def _peek(self) -> str:
        kind, value = self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")
        return value if kind == "sign" else kind

    def _take(self, wanted: str) -> str:
        if self._peek() != wanted:
            raise self._wrong(f"{self._peek()} found where {wanted} was wanted")
        self._at += 1
        return self._tokens[self._at - 1][1]

    def end(self) -> None:
        if self._at != len(self._tokens):
            raise self._wrong("more follows where the expression should end")

    def node(self, depth: int) -> Node:
        if depth > MAX_NESTING:
            raise self._wrong(f"nested more than {MAX_NESTING} levels deep")
        node = self._head(depth)
        steps = 0
        while self._peek() in (".", "["):
            steps += 1
            if steps > MAX_NESTING:
                raise self._wrong(f"more than {MAX_NESTING} steps")
            if self._peek() == ".":
                self._take(".")
                node = Step(node, Literal(self._take("name")))
            else:
                self._take("[")
                node = Step(node, self.node(depth + 1))
                self._take("]")
        return node

    def _head(self, depth: int) -> Node:
        kind = self._peek()
        if kind == "number":
            digits = self._take("number")
            if len(digits) > 20:
                raise self._wrong("a number of more than 64 bits")
            return Literal(int(digits))
        if kind == "text":
            return Literal(self._take("text")[1:-1].replace("''", "'"))
        name = self._take("name")
        if self._peek() == ".":
            self._take(".")
            name = f"{name}.{self._take('name')}"
        self._take("(")
        arguments: list[Node] = []
        while self._peek() != ")":
            if arguments:
                self._take(",")
            arguments.append(self.node(depth + 1))
        self._take(")")
        return Call(name, tuple(arguments))
