"""docs/configuration.md: every setting, variable and option, as the code has them.

A member or variable without words, or words for one that the code does not read, is an error: then the page
would be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from manual import words
from manual.commands import Argument, Command, tools
from manual.members import agent_members, sidecar_members
from manual.variables import variables

_HEAD = """\
# Configuration

Made by `scripts/make-docs` from the code; do not edit. A test compares this page with what the code reads.

Nothing here is a place for secrets except where a row says so, and then it is the predecessor's contract.
Keys come from a vault under attestation, or from a file or standard input. What the security policy should
measure: the agent's settings, `SkrSideCarArgs`, and every variable that names a host or a source of reports.

- [Settings of the agent](#settings-of-the-agent), with examples and rules in [agent.md](agent.md)
- [Settings of the sidecar](#settings-of-the-sidecar)
- [Environment variables](#environment-variables)
- [Options](#options)
"""
_AGENT = """\
## Settings of the agent

Base64 of a JSON object in `EncfsSideCarArgs`, or a file with `encfs agent --config`. Names match in any case,
null means absent, unknown members are named in a warning. All mistakes are reported in one message.
"""
_SIDECAR = """\
## Settings of the sidecar

Base64 of a JSON object in `SkrSideCarArgs`, or a file with `sidecar serve --settings`. Everything is
optional. Unknown members are ignored, as the predecessor did, except inside `allow`, where they are refused.
"""
_VARIABLES = """\
## Environment variables

An option wins over its variable. A driver process starts with a handful of them (`PATH`, `HOME`, locale);
what it needs of the others to reach a store goes to it over a pipe.
"""
_OPTIONS = """\
## Options

`get-snp-report [HEX]` and `securitypolicydigest` are the predecessor's tools: the first takes up to one
argument, the second the options of `sidecar policy digest`. Every command has `--help`.
"""


def page() -> str:
    """The whole page.

    Raises:
        LookupError: the code and our words speak of different things.
    """
    parts = [_HEAD, _AGENT, _members(), _SIDECAR, _sidecar(), _VARIABLES, _variables(), _OPTIONS, *_options()]
    return "\n".join(parts)


def _check(what: str, read: Iterable[str], described: Iterable[str]) -> None:
    missing, idle = sorted(set(read) - set(described)), sorted(set(described) - set(read))
    if missing or idle:
        raise LookupError(f"{what}: read by the code and not described {missing}, described only {idle}")


def _members() -> str:
    found = agent_members()
    _check("settings of the agent", found, words.AGENT)
    return _table(("member", "form", "meaning"), ((f"`{n}`", found[n], words.AGENT[n]) for n in words.AGENT))


def _sidecar() -> str:
    _check("settings of the sidecar", sidecar_members(), words.SIDECAR)
    return _table(("member", "meaning"), ((f"`{name}`", text) for name, text in words.SIDECAR.items()))


def _variables() -> str:
    found = variables()
    _check("variables", found, words.VARIABLES)
    rows = [(f"`{name}`", words.VARIABLES[name], _readers(modules)) for name, modules in found.items()]
    for names, text in words.LIBRARY_VARIABLES.items():
        rows.append((", ".join(f"`{name}`" for name in names.split(", ")), text, "azure-identity"))
    return _table(("variable", "meaning", "read by"), rows)


def _readers(modules: list[str]) -> str:
    return ", ".join(sorted({module.partition(".")[0] for module in modules}))


def _options() -> Iterator[str]:
    for tool in tools():
        for command in tool.walk():
            yield _section(command)


def _section(command: Command) -> str:
    lines = [f"### {command.name}", "", command.summary, "", "```", command.usage, "```"]
    rows = [_row(a) for a in command.arguments if "--help" not in a.flags]
    if rows:
        lines += ["", _table(("option or argument", "meaning"), rows).rstrip()]
    return "\n".join([*lines, ""])


def _row(argument: Argument) -> tuple[str, str]:
    default = f"(default: {argument.default})" if argument.default else ""
    return f"`{_cell(argument.usage)}`", f"{_cell(argument.words)} {default}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
