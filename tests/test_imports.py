"""Imports point down: entry -> composition -> layer/adapter -> pure, and every library has one home.

Each module says its kind in its docstring (`Kind: pure|layer|adapter|composition|entry`); this test reads
the imports with `ast` and holds them against it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "pure": {"pure"},
    "layer": {"pure", "layer"},
    "adapter": {"pure", "layer", "adapter"},
    "composition": {"pure", "layer", "adapter", "composition"},
    "entry": {"pure", "layer", "adapter", "composition", "entry"},
}
# Third-party library -> the modules that may import it.
HOMES = {
    "pyfuse3": {"encfs.fuse"},
    "httpx": {"sidecar.http", "encfs.block.blobhttp", "encfs.block.blobwire"},
    "h11": {"encfs.block.blobwire"},
    "tenacity": {"sidecar.http", "encfs.block.retry"},
    "azure": {"sidecar.identity"},
    "hypercorn": {"sidecar.server"},
    "ruamel": {"sidecar.policy.containers_yaml"},
    "zstandard": {"sidecar.policy.layers_streams"},
}
PURE_FORBIDS = {"trio", "socket", "ssl", "subprocess", "fcntl", "ctypes", "sqlite3"}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(p): p for package in ("encfs", "sidecar") for p in sorted((ROOT / package).rglob("*.py"))
}


def imports(name: str) -> set[str]:
    """Names of everything a module imports, resolved to our own modules where they are ours."""
    tree = ast.parse(MODULES[name].read_text())
    is_package = MODULES[name].name == "__init__.py"
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")
                parents = parents if is_package else parents[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base]) if base else ".".join(parents)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in MODULES else base)
    return found


def kind(name: str) -> str:
    doc = ast.get_docstring(ast.parse(MODULES[name].read_text())) or ""
    match = re.search(r"^Kind: (\w+)$", doc, re.MULTILINE)
    assert match, f"{name}: the module docstring has no line 'Kind: ...'"
    assert match.group(1) in MAY_IMPORT, f"{name}: unknown kind {match.group(1)!r}"
    return match.group(1)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    allowed = MAY_IMPORT[kind(name)]
    for other in imports(name) & MODULES.keys():
        assert kind(other) in allowed, f"{name} ({kind(name)}) imports {other} ({kind(other)})"


@pytest.mark.parametrize("name", MODULES)
def test_libraries_have_one_home(name: str) -> None:
    for other in imports(name):
        top = other.split(".")[0]
        if top in HOMES:
            assert name in HOMES[top], f"{name} imports {top}, whose home is {sorted(HOMES[top])}"
        if kind(name) == "pure":
            assert top not in PURE_FORBIDS, f"{name} is pure but imports {top}"


@pytest.mark.parametrize("name", MODULES)
def test_packages_are_kept_apart(name: str) -> None:
    for other in imports(name):
        if name.startswith("sidecar"):
            assert not other.startswith("encfs"), f"{name} imports {other}: sidecar never imports encfs"
        elif other.startswith("sidecar"):
            assert name == "encfs.azure", (
                f"{name} imports {other}: encfs reaches sidecar only through encfs.azure"
            )


def test_no_cycles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "import cycle: " + " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(imports(name) & MODULES.keys() - {name}):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
