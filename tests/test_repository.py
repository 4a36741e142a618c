"""What the tree must not hold, and what its scripts promise."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.needs import NEEDS, refuse_lacking
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(p for p in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"] if p.suffix != ".txt")
MACHINE_PATH = re.compile(r"/(?:work|root|home/(?!me/)[a-z]+|opt)/|/Users/|/pyenv/|\.pyenv")
# Hosts that packages come from. Built from parts, so that this file does not name one itself.
REGISTRY = re.compile(
    "|".join(
        rf"\b{name}\.{top}\b"
        for name, top in [
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "(?:org|com)"),
            (r"(?:deb|security|archive)\.debian", "org"),
            ("docker", "io"),
            ("gcr", "io"),
            ("ghcr", "io"),
            ("quay", "io"),
        ]
    )
)
# Images for tests are the only binaries, and each has the command that made it beside it.
BINARIES = re.compile(r"^tests/data/")
# An owner's or a vault's private key never lies in the tree, not even in a test.
SECRETS = re.compile("-----BEGIN (?:RSA |EC |ENCRYPTED )?PRIVATE " + "KEY-----")


def tracked() -> list[str]:
    """Files that git would take: what is committed, and what is new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=30)
    names = [name for name in done.stdout.decode().split("\0") if name]
    return [name for name in names if (ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    """Name and text of every file that is not a binary of the tests."""
    found = []
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if not BINARIES.match(name) or b"\0" not in data:
            found.append((name, data.decode(errors="replace")))
    return found


def hits(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line) and name != "tests/test_repository.py"
    ]


@pytest.mark.parametrize(
    "pattern", [MACHINE_PATH, REGISTRY, SECRETS], ids=["machine paths", "registry hosts", "private keys"]
)
def test_no_file_says(pattern: re.Pattern[str]) -> None:
    assert hits(pattern) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (MACHINE_PATH, "open('/work/x')"),
        (REGISTRY, "https://registry." + "npmjs.org/x"),
        (SECRETS, "-----BEGIN PRIVATE " + "KEY-----"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)


def test_no_binaries_and_nothing_large() -> None:
    for name in tracked():
        data = (ROOT / name).read_bytes()
        assert len(data) < 1 << 20, f"{name} has {len(data)} bytes"
        assert b"\0" not in data or BINARIES.match(name), f"{name} is a binary"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_strict_and_say_what_they_do(script: Path) -> None:
    text = script.read_text()
    lines = text.splitlines()
    assert script.stat().st_mode & 0o111, f"{script} is not executable"
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines or len(lines) < 5
    code = [line for line in lines if line and not line.startswith("#")]
    # The demo is a story told to a reader, step by step; all others are glue.
    assert len(code) < 20 or script.name == "demo", f"{script} has {len(code)} lines of code"
    subprocess.run(["bash", "-n", script], check=True, timeout=10)


def requirements(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """What a package needs on this machine."""
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def test_everything_we_need_is_pinned_and_installed_so() -> None:
    lines = (ROOT / "scripts" / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    assert lines == sorted(lines, key=str.lower), "constraints.txt is not sorted"
    waiting = [
        *requirements("attested-volumes", frozenset({"dev"})),
        Requirement("pip"),
        Requirement("setuptools"),
    ]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in seen:
            seen.add(name)
            version = importlib.metadata.version(name)
            assert pins.get(name) == version, f"{name} {version}, pinned {pins.get(name)}"
            waiting += requirements(name, frozenset(requirement.extras))


@pytest.mark.parametrize(("ci", "outcome"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)])
def test_a_lacking_machine_skips_but_fails_ci(
    monkeypatch: pytest.MonkeyPatch, ci: bool, outcome: type[BaseException]
) -> None:
    monkeypatch.setitem(NEEDS, "fuse", lambda: "/dev/fuse: missing")
    refuse_lacking(["slow", "root"] if NEEDS["root"]() == "" else ["slow"], ci=ci)
    with pytest.raises(outcome, match="marker fuse: /dev/fuse: missing"):
        refuse_lacking(["slow", "fuse"], ci=ci)


def test_the_tests_that_documents_name_exist() -> None:
    defined = set()
    for path in (ROOT / "tests").rglob("*.py"):
        defined.update(re.findall(r"def (test_\w+)\(", path.read_text()), [path.stem])
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {(p.name, name) for p in documents for name in re.findall(r"\b(test_\w+)\b", p.read_text())}
    assert len(named) > 20
    assert [(page, name) for page, name in sorted(named) if name not in defined] == []
