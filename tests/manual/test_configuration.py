"""docs/configuration.md is what the code reads; nothing is missing, nothing is idle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from manual import words
from manual.commands import tools
from manual.configuration import page
from manual.members import agent_members, sidecar_members
from manual.variables import _names, variables


def test_the_committed_page_is_the_one_made_now(root: Path) -> None:
    committed = (root / "docs" / "configuration.md").read_text()
    assert committed == page(), "run scripts/make-docs"


@pytest.mark.parametrize("table", ["AGENT", "SIDECAR", "VARIABLES"])
def test_a_member_without_words_and_words_without_a_member_are_refused(
    monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    found: dict[str, str] = getattr(words, table)
    some = next(iter(found))
    monkeypatch.setattr(words, table, {name: text for name, text in found.items() if name != some})
    with pytest.raises(LookupError, match=r"not described \['"):
        page()
    monkeypatch.setattr(words, table, found | {"no_such": "x"})
    with pytest.raises(LookupError, match=r"described only \['no_such'\]"):
        page()


def test_members_are_found_on_every_branch_of_the_readers() -> None:
    agent = agent_members()
    for name in ("key.akv.bearer_token", "key_url", "raw_key", "key_derivation.salt"):
        assert f"azure_filesystems[].{name}" in agent
    assert agent["azure_filesystems[].read_write"] == "boolean"
    assert {"allow.callers", "identity.resource_id", "wrapping_bits"} <= set(sidecar_members())


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ('A_VARIABLE = "A_B"', ["A_B"]),
        ('A_VARIABLE, B_VARIABLE = "Aa", "Bb"', ["Aa", "Bb"]),
        ('os.environ.get("A_B")', ["A_B"]),
        ('environ.pop("A_B", "")', ["A_B"]),
        ('self._environ["A_B"]', ["A_B"]),
        ('"A_B" not in environ', ["A_B"]),
        ('table = ("UVM_A", "x")', ["UVM_A"]),
        ('settings.get("A_B")', []),
        ('environ["A_B"] = "x"', []),
        ('A = "A_B"', []),
    ],
)
def test_variables_are_found_where_they_are_read(code: str, names: list[str]) -> None:
    assert list(_names(ast.parse(code))) == names


def test_variables_say_who_reads_them() -> None:
    assert variables()["EncfsSideCarArgs"] == ["encfs.settingsparse"]
    assert "SIDECAR_ALLOWED_HOSTS" in variables()


def test_every_command_and_option_is_on_the_page() -> None:
    text = page()
    commands = [command for tool in tools() for command in tool.walk()]
    assert len(commands) > 40
    for command in commands:
        assert f"### {command.name}\n" in text
        for argument in command.arguments:
            assert argument.usage.replace("|", "\\|") in text or argument.flags == ("-h", "--help")
