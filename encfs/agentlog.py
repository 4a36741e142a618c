"""The agent's log: text or one JSON object a line, each record with the volume that it is about.

Rules: every record, its traceback included, passes the redaction before it is written; control characters
are replaced, so that nothing from outside can imitate a record.

Kind: adapter
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from encfs.errors import UsageError

# Index of the volume whose task runs; tasks inherit it from the one that started them.
current_volume: ContextVar[int | None] = ContextVar("current_volume", default=None)

LogFormat = Literal["text", "json"]
Redact = Callable[[str], str]
# Level names of the predecessor's LogLevel variable.
LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
# Below this level they log requests with headers.
_NOISY = ("httpx", "httpcore", "azure", "msal", "hypercorn", "urllib3", "sidecar.server")


class TextFormatter(logging.Formatter):
    """`2026-01-01T00:00:00Z level volume 0: message`."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The record's line; further lines are indented."""
        volume = current_volume.get()
        about = "" if volume is None else f" volume {volume}:"
        text = _clean(self._redact(_whole(self, record)))
        return f"{_time(record)} {record.levelname.lower()}{about} {text}"


class JsonFormatter(logging.Formatter):
    """One object: time, level, logger, volume where there is one, message."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        found: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if (volume := current_volume.get()) is not None:
            found["volume"] = volume
        return json.dumps(found | {"message": self._redact(_whole(self, record))})


def set_up_logging(level: int, form: LogFormat, redact: Redact, *, file: Path | None = None) -> None:
    """Send everything from `level` on to standard error, or append it to a file.

    Raises:
        UsageError: the file cannot be opened.
    """
    try:
        handler = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file)
    except OSError as exc:
        raise UsageError(f"log file {file}: {exc.strerror}") from exc
    handler.setFormatter(JsonFormatter(redact) if form == "json" else TextFormatter(redact))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


def _whole(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text


def _clean(text: str) -> str:
    return _CONTROL.sub("?", text).replace("\n", "\n    ")


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03}Z"
