"""Environment variables that the code reads, found in its syntax trees.

A variable counts as read where its name is a constant called `..._VARIABLE`, or is written where an
environment is asked: `environ.get("NAME")`, `environ["NAME"]`, `environ.pop("NAME")`, `"NAME" in environ`.
A name that begins like ours or the guest's counts wherever it is written, for tables of them are read in
loops.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_ENVIRONMENT = re.compile(r"(?:.*[._])?environ(?:ment)?")
_OURS = re.compile(r"(?:SIDECAR|ENCFS|UVM)_[A-Z_]*[A-Z]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]+")


@cache
def variables() -> dict[str, list[str]]:
    """Names, each with the modules that read it."""
    found: dict[str, set[str]] = {}
    for package in ("encfs", "sidecar"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for name in _names(ast.parse(path.read_text())):
                found.setdefault(name, set()).add(module)
    return {name: sorted(modules) for name, modules in sorted(found.items(), key=lambda p: p[0].lower())}


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[target], value=value):
                yield from _constants(target, value)
            case ast.Call(func=ast.Attribute(value=owner, attr="get" | "pop"), args=[ast.Constant(name), *_]):
                yield from _of(owner, name)
            case ast.Subscript(value=owner, slice=ast.Constant(name), ctx=ast.Load()):
                yield from _of(owner, name)
            case ast.Compare(left=ast.Constant(name), ops=[ast.In() | ast.NotIn()], comparators=[owner]):
                yield from _of(owner, name)
            case ast.Constant(str(text)) if _OURS.fullmatch(text):
                yield text


def _constants(target: ast.expr, value: ast.expr) -> Iterator[str]:
    match target, value:
        case ast.Name(name), ast.Constant(str(text)) if name.endswith("VARIABLE"):
            yield text
        case ast.Tuple(names), ast.Tuple(values) if len(names) == len(values):
            for one, other in zip(names, values, strict=True):
                yield from _constants(one, other)


def _of(owner: ast.expr, name: object) -> Iterator[str]:
    if isinstance(name, str) and _NAME.fullmatch(name) and _ENVIRONMENT.fullmatch(ast.unparse(owner)):
        yield name
