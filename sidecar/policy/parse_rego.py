"""The part of Rego that generated security policies are written in, read strictly.

A policy file is a package line, imports, and bindings of names to literals or to the framework's own rules:

    package policy
    import future.keywords.every
    api_version := "0.10.0"
    containers := [{"command": ["/app"], ...}]
    mount_device := data.framework.mount_device
    reason := {"errors": data.framework.errors}

Strategy: one regular expression makes tokens, a recursive descent reads them. White space, comments and
trailing commas are read as Rego reads them, so a policy edited by hand stays readable.

Rules: everything else of Rego (conditions, functions, comprehensions, `default`, `else`) is refused by
name: such a policy may admit anything, and nobody should be told what it admits by a reader that cannot
evaluate it. A statement starts on a line of its own; a name is bound once; members are unique; sizes and
nesting are bounded.

Spec: Open Policy Agent, policy reference, grammar (literals, rule heads); RFC 8259 for strings and numbers.

Kind: pure
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn

from sidecar.errors import MalformedInput

# Policies of large groups reach a few megabytes.
MAX_SIZE = 16 << 20
MAX_DEPTH = 16
_MAX_DIGITS = 19
_MAX_IMPORTS = 32

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      | (?P<line>\n)
      | (?P<string>"(?:[^"\\\x00-\x1f]|\\.)*")
      | (?P<raw>`[^`\x00]*`)
      | (?P<number>-?(?:0|[1-9][0-9]*)(?![0-9.eE]))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
      | (?P<bind>:=)
      | (?P<mark>[\[\]{},:])""",
    re.VERBOSE,
)
_HINT = "only generated policies can be read: literals, and references to data.framework"


@dataclass(frozen=True, slots=True)
class Reference:
    """A dotted name on the right side, such as `data.framework.mount_device`."""

    path: str


RegoValue = str | int | bool | None | list["RegoValue"] | dict[str, "RegoValue"] | Reference


@dataclass(frozen=True, slots=True)
class Module:
    """One Rego file: its package, its imports, and what each name is bound to, in the file's order."""

    package: str
    imports: tuple[str, ...]
    bindings: dict[str, RegoValue]
    first_line_is_package: bool


def parse_module(data: bytes, *, what: str = "security policy") -> Module:
    """Read a Rego file of the form above.

    Args:
        data: at most 16 MiB of UTF-8, from an untrusted party.
        what: names the file in errors.

    Raises:
        MalformedInput: anything else of Rego, or no Rego; the message names the line.
    """
    if len(data) > MAX_SIZE:
        raise MalformedInput(f"{what}: {len(data)} bytes, at most {MAX_SIZE} are read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedInput(f"{what}: not UTF-8 at byte {exc.start}") from None
    reader = _Reader(text, what)
    package = reader.package()
    imports: list[str] = []
    bindings: dict[str, RegoValue] = {}
    while reader.kind != "end":
        name = reader.name("a binding")
        if name == "import":
            imports.append(reader.name("an imported name"))
            if len(imports) > _MAX_IMPORTS or bindings:
                reader.fail("an import after the bindings, or too many imports")
        else:
            reader.bind(name, bindings)
        reader.end_of_statement()
    return Module(package, tuple(imports), bindings, re.match(r"package +\w+\s*?\n", text) is not None)


class _Reader:
    """A position in the text: `kind` and `text` are the token there; every method reads on from it."""

    def __init__(self, source: str, what: str) -> None:
        self.source = source
        self.what = what
        self.position = 0
        self.kind = ""
        self.text = ""
        self.start = 0
        self.new_line = True
        self.advance()

    def fail(self, message: str, *, hint: str = "") -> NoReturn:
        line = self.source.count("\n", 0, self.start) + 1
        raise MalformedInput(f"{self.what}: line {line}: {message}", hint=hint)

    def unexpected(self, wanted: str) -> NoReturn:
        seen = "the end" if self.kind == "end" else repr(self.text[:40])
        self.fail(f"{seen}, wanted {wanted}", hint=_HINT)

    def advance(self) -> None:
        """Move to the next token; `new_line` says whether a line ended before it."""
        self.new_line = self.position == 0
        while True:
            self.start = self.position
            if self.position == len(self.source):
                self.kind, self.text = "end", ""
                return
            match = _TOKEN.match(self.source, self.position)
            if match is None:
                self.text = self.source[self.position : self.position + 40].split("\n")[0]
                self.unexpected("the Rego of a generated policy")
            self.position = match.end()
            self.kind, self.text = str(match.lastgroup), match.group()
            if self.kind == "line":
                self.new_line = True
            elif self.kind != "space":
                return

    def package(self) -> str:
        if self.text != "package":
            self.unexpected("a package line")
        self.advance()
        name = self.name("the package's name")
        if "." in name:
            self.fail(f"package {name[:80]!r} has a dot, wanted one name")
        self.end_of_statement()
        return name

    def name(self, wanted: str) -> str:
        if self.kind != "name":
            self.unexpected(wanted)
        name = self.text
        self.advance()
        return name

    def bind(self, name: str, bindings: dict[str, RegoValue]) -> None:
        if self.kind != "bind":
            self.unexpected(f"':=' after {name[:60]!r}")
        if "." in name or name in bindings:
            self.fail(f"{name[:60]!r} is bound twice, or is no plain name")
        self.advance()
        bindings[name] = self.value(0)

    def end_of_statement(self) -> None:
        if self.kind != "end" and not self.new_line:
            self.unexpected("the end of the line")

    def value(self, depth: int) -> RegoValue:
        if depth > MAX_DEPTH:
            self.fail(f"nested more than {MAX_DEPTH} levels deep")
        kind, text = self.kind, self.text
        if kind == "string":
            return self.string()
        if kind == "raw":
            self.advance()
            return text[1:-1]
        if kind == "number":
            return self.number()
        if kind == "name":
            self.advance()
            words: dict[str, bool | None] = {"true": True, "false": False, "null": None}
            return words[text] if text in words else Reference(text)
        if text == "[":
            return self.array(depth + 1)
        if text == "{":
            return self.object(depth + 1)
        self.unexpected("a value")

    def string(self) -> str:
        try:
            value: object = json.loads(self.text)
        except json.JSONDecodeError as exc:
            self.fail(f"a string with {exc.msg.lower()}")
        if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
            self.fail("a string with half of a surrogate pair")
        self.advance()
        return value

    def number(self) -> int:
        if len(self.text) > _MAX_DIGITS:
            self.fail(f"a number of {len(self.text)} characters")
        value = int(self.text)
        self.advance()
        return value

    def array(self, depth: int) -> list[RegoValue]:
        self.advance()
        items: list[RegoValue] = []
        while self.text != "]" or self.kind != "mark":
            items.append(self.value(depth))
            self.separator("]")
        self.advance()
        return items

    def object(self, depth: int) -> dict[str, RegoValue]:
        self.advance()
        members: dict[str, RegoValue] = {}
        while self.text != "}" or self.kind != "mark":
            if self.kind not in ("string", "raw"):
                self.unexpected("a member's name in quotes")
            key = str(self.value(depth))
            if key in members:
                self.fail(f"member {key[:60]!r} appears twice")
            if (self.kind, self.text) != ("mark", ":"):
                self.unexpected("':'")
            self.advance()
            members[key] = self.value(depth)
            self.separator("}")
        self.advance()
        return members

    def separator(self, closing: str) -> None:
        """A comma, after which the closing bracket may follow, or the closing bracket itself."""
        if self.kind == "mark" and self.text == ",":
            self.advance()
        elif self.kind != "mark" or self.text != closing:
            self.unexpected(f"',' or {closing!r}")
