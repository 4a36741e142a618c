"""Words and colours for people: how values of a policy are shown on a terminal.

Rules: everything shown comes from a file that somebody else may have written, so what cannot be printed is
shown as an escape; colour is asked for by the caller, who knows whether a terminal is there.

Spec: ECMA-48, select graphic rendition.

Kind: pure
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SHOWN = 400
_BOLD, _DIM, _RED, _GREEN, _YELLOW, _CYAN = "1", "2", "31", "32", "33", "36"


@dataclass(frozen=True, slots=True)
class Paint:
    """Colours, or none."""

    enabled: bool = False

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.enabled else text

    def head(self, text: str) -> str:
        return self._wrap(_BOLD, text)

    def dim(self, text: str) -> str:
        return self._wrap(_DIM, text)

    def bad(self, text: str) -> str:
        return self._wrap(_RED, text)

    def good(self, text: str) -> str:
        return self._wrap(_GREEN, text)

    def warn(self, text: str) -> str:
        return self._wrap(_YELLOW, text)

    def name(self, text: str) -> str:
        return self._wrap(_CYAN, text)


def shown(text: str, limit: int = MAX_SHOWN) -> str:
    """A text from outside, safe to print and of bounded length."""
    safe = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text[: limit + 1])
    return safe if len(text) <= limit else f"{safe[:limit]}... ({len(text)} characters)"


def command_line(words: Sequence[str]) -> str:
    """A command as one would type it."""
    return " ".join(shlex.quote(shown(word)) for word in words)


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 layer, 2 layers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
