"""Shell completion for bash and zsh, from the parsers: static scripts that start no program.

Strategy: each script has one table from a command to the words that may follow it, and walks the line over
it. Options that take a value complete its choices, or files where a path may be meant, or nothing.

Rules: nothing of the line is evaluated; words come from our parsers and are quoted all the same.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from manual.commands import Argument, Command, tools

_BASH = r"""# bash completion for @NAME@, made by scripts/make-docs
_@FUNCTION@() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} at='@NAME@' i word
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case "$at $word" in
@BELOW@
        esac
    done
    local words='' values='' files=no
    case "$at" in
@WORDS@
    esac
    case "$at $previous" in
@VALUES@
    esac
    if [[ $files == yes ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
    elif [[ $values == none ]]; then
        COMPREPLY=()
    elif [[ -n $values ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$values" -- "$current")
    elif [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current" | grep -v '^-'; compgen -f -- "$current")
        [[ $words == [a-z]* ]] || compopt -o filenames 2>/dev/null
    fi
}
complete -F _@FUNCTION@ @NAME@
"""
_ZSH = r"""#compdef @NAME@
# zsh completion for @NAME@, made by scripts/make-docs
_@FUNCTION@() {
    local at='@NAME@' word i
    for ((i = 2; i < CURRENT; i++)); do
        word=$words[i]
        case "$at $word" in
@BELOW@
        esac
    done
    local -a options commands
    case "$at" in
@DESCRIBED@
    esac
    case "$at $words[CURRENT - 1]" in
@VALUES@
    esac
    if [[ $words[CURRENT] == -* ]]; then
        _describe option options
    elif ((#commands)); then
        _describe command commands
    else
        _files
    fi
}
_@FUNCTION@ "$@"
"""


def completions() -> dict[str, str]:
    """Paths below `share` and texts."""
    found: dict[str, str] = {}
    for tool in tools():
        found[f"bash-completion/completions/{tool.name}"] = _fill(_BASH, tool)
        found[f"zsh/site-functions/_{tool.name}"] = _fill(_ZSH, tool)
    return found


def _fill(template: str, tool: Command) -> str:
    parts: dict[str, str | Iterator[str]] = {
        "BELOW": _below(tool),
        "WORDS": _words(tool),
        "DESCRIBED": _described(tool),
        "VALUES": _values(tool, bash=template is _BASH),
        "FUNCTION": tool.name.replace("-", "_"),
        "NAME": tool.name,
    }

    def part(match: re.Match[str]) -> str:
        lines = parts[match[1]]
        return lines if isinstance(lines, str) else "\n".join(f"    {line}" for line in lines)

    return re.sub(r"@([A-Z]+)@", part, template)


def _below(tool: Command) -> Iterator[str]:
    for command in tool.walk():
        for below in command.below:
            yield f"{shlex.quote(below.name)}) at={shlex.quote(below.name)} ;;"


def _words(tool: Command) -> Iterator[str]:
    for command in tool.walk():
        names = [below.words[-1] for below in command.below]
        flags = [flag for argument in command.arguments for flag in argument.flags]
        yield f"{shlex.quote(command.name)}) words={shlex.quote(' '.join([*names, *flags]))} ;;"


def _described(tool: Command) -> Iterator[str]:
    for command in tool.walk():
        options = [_pair(f, a.words) for a in command.arguments for f in a.flags]
        commands = [_pair(below.words[-1], below.summary) for below in command.below]
        yield f"{shlex.quote(command.name)})"
        yield f"    options=({' '.join(options)})"
        yield f"    commands=({' '.join(commands)}) ;;"


def _pair(word: str, meaning: str) -> str:
    """`word:meaning` as _describe reads it."""
    escaped = word.replace(":", "\\:")
    return shlex.quote(f"{escaped}:{meaning}")


def _values(tool: Command, *, bash: bool) -> Iterator[str]:
    for command in tool.walk():
        for argument in command.arguments:
            if argument.flags and argument.value:
                spelled = "|".join(shlex.quote(f"{command.name} {flag}") for flag in argument.flags)
                yield f"{spelled}) {_bash_value(argument) if bash else _zsh_value(argument)} ;;"


def _bash_value(argument: Argument) -> str:
    if argument.choices:
        return f"values={shlex.quote(' '.join(argument.choices))}"
    return "files=yes" if argument.is_path else "values=none"


def _zsh_value(argument: Argument) -> str:
    if argument.choices:
        return f"compadd -- {shlex.join(argument.choices)}; return"
    return "_files; return" if argument.is_path else f"_message {shlex.quote(argument.value)}; return"
