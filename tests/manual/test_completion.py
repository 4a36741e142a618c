"""Completion as bash runs it, and as zsh does where there is one; nothing of the line is executed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from manual.commands import tools
from manual.completion import completions

NAMES = [tool.name for tool in tools()]
_ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_"$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    for name, text in completions().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def complete(scripts: Path, folder: Path, *line: str) -> list[str]:
    script = scripts / "bash-completion" / "completions" / line[0]
    command = ["bash", "-c", _ASK, "bash", str(script), *line]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (["encfs", "m"], {"mount"}),
        (["encfs", "key", ""], {"add", "remove", "rotate", "authenticate"}),
        (["encfs", "mount", "--read-"], {"--read-only", "--read-ahead"}),
        (["encfs", "mount", "--via", ""], {"kernel", "fuse2fs"}),
        (["encfs", "create", "--size", ""], set()),
        (["sidecar", "policy", "fragment", "ver"], {"verify"}),
        (["sidecar", "policy", "lint", "--fail-on", "n"], {"note", "never"}),
        (["sidecar", "--log-level", "debug", "policy", "digest", "--ch"], {"--check"}),
        (["skr", "-server"], {"-server_type"}),
    ],
    ids=" ".join,
)
def test_bash_completes(scripts: Path, tmp_path: Path, line: list[str], wanted: set[str]) -> None:
    found = complete(scripts, tmp_path, *line)
    assert set(found) == wanted


@pytest.mark.parametrize("line", [["encfs", "mount", "da"], ["encfs", "mount", "--key-file", "da"]])
def test_bash_completes_files_where_a_path_is_meant(scripts: Path, tmp_path: Path, line: list[str]) -> None:
    (tmp_path / "data.img").touch()
    assert complete(scripts, tmp_path, *line) == ["data.img"]


@pytest.mark.parametrize("word", ["$(touch made)", "`touch made`", "; touch made", "*", "--$(touch made)"])
def test_bash_evaluates_nothing_of_the_line(scripts: Path, tmp_path: Path, word: str) -> None:
    complete(scripts, tmp_path, "encfs", "mount", word, word)
    complete(scripts, tmp_path, "encfs", word, "--via", word)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_zsh_scripts_name_every_command_and_option(scripts: Path, name: str) -> None:
    path = scripts / "zsh" / "site-functions" / f"_{name}"
    text = path.read_text()
    assert text.startswith(f"#compdef {name}\n")
    assert "@" not in text.replace("$@", "")
    (tool,) = [tool for tool in tools() if tool.name == name]
    for command in tool.walk():
        assert all(f"{flag}:" in text for argument in command.arguments for flag in argument.flags)
    if zsh := shutil.which("zsh"):
        subprocess.run([zsh, "-n", path], check=True, timeout=20)
