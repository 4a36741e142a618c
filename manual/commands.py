"""What the commands accept, read from their argparse parsers into plain values.

Everything that is made from the help starts here, so that a new command or option is documented, completed
and listed without anybody's doing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

# Words for arguments that are paths on this machine, as the parsers name them.
_PATHS = ("FILE", "DIR", "DIRECTORY", "FOLDER", "MOUNTPOINT", "IMAGE", "PATH", "SOCKET")


@dataclass(frozen=True, slots=True)
class Argument:
    """One option or positional argument.

    Attributes:
        flags: its spellings; empty for a positional.
        value: the word for its value, as the usage shows it; empty for a flag without one.
        words: its help.
        choices: the values it takes; empty for any.
        default: what counts without it, where the help does not say; empty for nothing worth saying.
        required: whether it must be given.
    """

    flags: tuple[str, ...]
    value: str
    words: str
    choices: tuple[str, ...]
    default: str
    required: bool

    @property
    def is_path(self) -> bool:
        """Whether a file or folder of this machine may be meant."""
        return any(word in self.value.upper().strip("[]").split("|") for word in _PATHS) and not self.choices

    @property
    def usage(self) -> str:
        """Spellings and value, like `-c, --config FILE`."""
        names = ", ".join(self.flags)
        return f"{names} {self.value}".strip() if names else self.value


@dataclass(frozen=True, slots=True)
class Command:
    """A command: `words` are those typed, like ("sidecar", "policy", "digest")."""

    words: tuple[str, ...]
    summary: str
    description: str
    epilog: str
    usage: str
    arguments: tuple[Argument, ...]
    below: tuple[Command, ...]

    @property
    def name(self) -> str:
        """As typed."""
        return " ".join(self.words)

    def walk(self) -> Iterator[Command]:
        """This command and all below it."""
        yield self
        for command in self.below:
            yield from command.walk()


@cache
def tools() -> tuple[Command, ...]:
    """The programs this distribution installs that explain themselves."""
    from encfs.cli import _parser as encfs
    from sidecar.cli import _parser as sidecar
    from sidecar.cli_serve import _skr_parser as skr

    return tuple(read(make(), (make().prog,)) for make in (encfs, sidecar, skr))


def read(parser: argparse.ArgumentParser, words: tuple[str, ...], summary: str = "") -> Command:
    """One parser, and those of its subcommands."""
    arguments: list[Argument] = []
    below: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            below += [read(p, (*words, name), helps.get(name, "")) for name, p in action.choices.items()]
        elif action.help != argparse.SUPPRESS:
            arguments.append(_argument(parser, action))
    description = (parser.description or "").strip()
    return Command(
        words,
        summary or description.partition("\n")[0],
        description,
        (parser.epilog or "").strip(),
        _usage(words, arguments, _one_of(parser), bool(below)),
        tuple(arguments),
        tuple(below),
    )


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> Argument:
    values = {**vars(action), "prog": parser.prog}
    words = (action.help or "") % values if action.help else ""
    takes = action.nargs != 0
    value = ""
    if takes or not action.option_strings:
        name = action.metavar if isinstance(action.metavar, str) else ""
        chosen = "|".join(map(str, action.choices)) if action.choices and not name else ""
        value = chosen or name or (action.dest.upper() if action.option_strings else action.dest)
        value = {"*": f"[{value}...]", "+": f"{value}...", "?": f"[{value}]"}.get(str(action.nargs), value)
    default = action.default
    silent = default in (None, False, "", argparse.SUPPRESS, []) or "default" in words
    # A default that is computed from this machine or its environment is not one to print.
    plain = isinstance(default, str | int | float) and parser.prog != "skr"
    return Argument(
        tuple(action.option_strings),
        value,
        " ".join(words.split()),
        tuple(map(str, action.choices or ())),
        "" if silent or not plain else str(default),
        bool(action.required),
    )


def _one_of(parser: argparse.ArgumentParser) -> list[tuple[str, ...]]:
    """Options of which exactly one must be given."""
    groups = [group for group in parser._mutually_exclusive_groups if group.required]
    return [tuple(action.option_strings[-1] for action in group._group_actions) for group in groups]


def _usage(
    words: tuple[str, ...], arguments: list[Argument], one_of: list[tuple[str, ...]], below: bool
) -> str:
    values = {flag: argument.value for argument in arguments for flag in argument.flags}
    chosen = {flag for group in one_of for flag in group}
    options = any(a.flags and not a.required and a.flags[-1] not in chosen for a in arguments)
    needed = [f"{a.flags[-1]} {a.value}" for a in arguments if a.flags and a.required]
    needed += ["(" + " | ".join(f"{f} {values.get(f, '')}".strip() for f in group) + ")" for group in one_of]
    places = [a.value for a in arguments if not a.flags]
    return " ".join(
        [*words, *(["[options]"] if options else []), *needed, *places, *(["COMMAND ..."] if below else [])]
    )
