"""Logging of the commands: one redacting formatter, to standard error or a file.

Kind: adapter
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from sidecar.errors import UsageError
from sidecar.redact import RedactingFormatter

FORMAT = "sidecar: %(levelname)s: %(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# They log requests with headers and bodies below this level.
_NOISY = ("azure", "httpx", "httpcore", "msal", "hypercorn", "h2", "hpack", "urllib3", "requests")


def set_up_logging(level: int, *, file: Path | None = None, known: Iterable[str] = ()) -> None:
    """Send everything from `level` on through the redacting formatter.

    Args:
        level: of our own loggers; libraries log from WARNING on.
        file: appended to, made when it is not there; standard error when None.
        known: secrets that must never appear.

    Raises:
        UsageError: the file cannot be opened.
    """
    try:
        handler = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file)
    except OSError as exc:
        raise UsageError(f"log file {file}: {exc.strerror}") from exc
    handler.setFormatter(RedactingFormatter(FORMAT if file is None else FILE_FORMAT, known=known))
    for name in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logging.addLevelName(name, logging.getLevelName(name).lower())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
