"""docs/troubleshooting.md has each error of both packages once, with its code, a cause and a cure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import encfs.errors
import sidecar.errors


def below(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == kind.__module__:
            yield from below(child)


def rows(page: Path, heading: str) -> list[list[str]]:
    """Cells of the rows below a heading whose first cell is a class."""
    section = page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_encfs_errors(root: Path) -> None:
    found = rows(root / "docs" / "troubleshooting.md", "encfs")
    wanted = {f"`{kind.__name__}`": kind for kind in below(encfs.errors.EncfsError)}
    assert sorted(row[0] for row in found) == sorted(wanted)
    for name, code, cause, cure in found:
        assert int(code) == wanted[name].exit_code  # type: ignore[attr-defined]
        assert cause
        assert cure


def test_sidecar_errors(root: Path) -> None:
    found = rows(root / "docs" / "troubleshooting.md", "sidecar")
    wanted = {f"`{kind.__name__}`": kind for kind in below(sidecar.errors.SidecarError)}
    assert sorted(row[0] for row in found) == sorted(wanted)
    for name, code, status, cause, cure in found:
        assert int(code) == wanted[name].exit_code  # type: ignore[attr-defined]
        assert int(status) == wanted[name].http_status  # type: ignore[attr-defined]
        assert cause
        assert cure


@pytest.mark.parametrize("module", [encfs.errors, sidecar.errors])
def test_every_exit_code_belongs_to_an_error(module: object) -> None:
    base = encfs.errors.EncfsError if module is encfs.errors else sidecar.errors.SidecarError
    codes: set[int] = {int(kind.exit_code) for kind in below(base)}  # type: ignore[attr-defined]
    silent = {0, 130}  # success, and a signal, which needs no class
    assert {int(code) for code in module.ExitCode} - silent <= codes  # type: ignore[attr-defined]


def test_links_of_the_documents_lead_somewhere(root: Path) -> None:
    pages = [root / "README.md", root / "CHANGELOG.md", *(root / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            other = (page.parent / path) if path else page
            assert other.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^a-z0-9 _-]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{page.name}: {target}"
