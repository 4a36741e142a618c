"""The agent's log: one line a record, the volume it is about, no secret, no forged records."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from encfs.agentlog import JsonFormatter, TextFormatter, current_volume


def redact(text: str) -> str:
    return text.replace("secret", "<redacted>")


def record(message: str, *args: object, failing: bool = False) -> logging.LogRecord:
    info = None
    if failing:
        try:
            raise ValueError("secret in a traceback")
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("encfs.x", logging.WARNING, __file__, 1, message, args, info)


@pytest.fixture(params=[None, 2])
def volume(request: pytest.FixtureRequest) -> int | None:
    current_volume.set(request.param)
    found: int | None = request.param
    return found


def test_text(volume: int | None) -> None:
    about = "" if volume is None else " volume 2:"
    line = TextFormatter(redact).format(record("a %s\nINFO forged \x1b[31m", "secret"))
    time, _, rest = line.partition(" ")
    assert time.endswith("Z")
    assert rest == f"warning{about} a <redacted>\n    INFO forged ?[31m"


def test_json(volume: int | None) -> None:
    line = JsonFormatter(redact).format(record('a "%s"\nb', "secret", failing=True))
    assert "\n" not in line
    assert "secret" not in line
    found = json.loads(line)
    assert found.get("volume") == volume
    assert (found["level"], found["logger"]) == ("warning", "encfs.x")
    assert found["message"].startswith('a "<redacted>"\nb\nTraceback')
