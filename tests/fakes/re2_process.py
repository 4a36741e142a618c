"""RE2 in a process of its own: its library and the Rego engine's do not go together in one.

Run as a program it answers JSON lines [pattern, text] with true, false or, for what does not compile, null.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import IO


class Re2:
    """Asks the process; close it when done."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, pattern: str, text: str, how: str) -> bool | None:
        requests, answers = _pipe(self._process.stdin), _pipe(self._process.stdout)
        requests.write(json.dumps([pattern, text, how]) + "\n")
        requests.flush()
        answer: bool | None = json.loads(answers.readline())
        return answer

    def finds(self, pattern: str, text: str) -> bool:
        """Whether the pattern is somewhere in the text, unanchored, as old utility VMs ask it."""
        answer = self._ask(pattern, text, "search")
        assert answer is not None, f"{pattern!r} does not compile"
        return answer

    def is_whole(self, pattern: str, text: str) -> bool:
        """Whether the pattern matches the text from end to end."""
        answer = self._ask(pattern, text, "fullmatch")
        assert answer is not None, f"{pattern!r} does not compile"
        return answer

    def compiles(self, pattern: str) -> bool:
        return self._ask(pattern, "", "search") is not None

    def close(self) -> None:
        _pipe(self._process.stdin).close()
        _pipe(self._process.stdout).close()
        self._process.wait(timeout=10)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _serve() -> None:
    import re2

    options = re2.Options()
    options.log_errors = False
    for line in sys.stdin:
        pattern, text, how = json.loads(line)
        try:
            answer = getattr(re2.compile(pattern, options), how)(text) is not None
        except re2.error:
            answer = None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
