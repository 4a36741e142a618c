"""Man pages from the help: one for each program and each of its commands, `encfs-key-add.1` and so on.

Spec: man-pages(7) for the sections, groff_man(7) for the macros.
"""

from __future__ import annotations

import re

from manual.commands import Argument, Command, tools

_ESCAPES = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq"})


def man_pages(version: str) -> dict[str, str]:
    """File names and texts, in the order of the help."""
    return {
        f"{'-'.join(command.words)}.1": _page(command, version) for tool in tools() for command in tool.walk()
    }


def _page(command: Command, version: str) -> str:
    name = "-".join(command.words)
    package = f"attested-volumes {version}"
    lines = [f'.TH {name.upper()} 1 "" "{package}" "Attested encrypted volumes"', ".SH NAME"]
    lines += [
        f"{_text(name)} \\- {_text(command.summary)}",
        ".SH SYNOPSIS",
        ".nf",
        _text(command.usage),
        ".fi",
    ]
    lines += [".SH DESCRIPTION", *_paragraphs(command.description)]
    if command.below:
        lines.append(".SH COMMANDS")
        for below in command.below:
            lines += [".TP", f".B {_text(below.words[-1])}", _line(below.summary)]
    if command.arguments:
        lines += [".SH OPTIONS", *(line for argument in command.arguments for line in _argument(argument))]
    if command.epilog:
        codes = command.epilog.startswith("exit codes:")
        epilog = command.epilog.partition("\n")[2] if codes else command.epilog
        lines += [".SH EXIT STATUS" if codes else ".SH NOTES", ".nf", *map(_line, epilog.split("\n")), ".fi"]
    near = [command.words[:-1]] if len(command.words) > 1 else []
    near += [below.words for below in command.below]
    if near:
        lines += [".SH SEE ALSO", ",\n".join(f".BR {_text('-'.join(words))} (1)" for words in near)]
    return "\n".join(lines) + "\n"


def _argument(argument: Argument) -> list[str]:
    names = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in argument.flags)
    value = f"\\fI{_text(argument.value)}\\fR" if argument.value else ""
    default = f" (default: {argument.default})" if argument.default else ""
    words = f"{argument.words}{default}".strip()
    return [".TP", f"{names} {value}".strip(), *([_line(words)] if words else [])]


def _paragraphs(text: str) -> list[str]:
    """Paragraphs as in the help; lines that were set by hand stay as they are."""
    lines: list[str] = []
    for part in re.split(r"\n{2,}", text):
        lines += (
            [".PP", ".nf", *map(_line, part.split("\n")), ".fi"] if "\n" in part else [".PP", _line(part)]
        )
    return lines


def _line(text: str) -> str:
    """One line of text; a leading dot would be read as a macro."""
    found = _text(text)
    return f"\\&{found}" if found.startswith(".") else found


def _text(text: str) -> str:
    return text.translate(_ESCAPES)
