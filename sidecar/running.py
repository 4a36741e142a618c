"""What surrounds every command: logging, and errors as messages and exit codes.

Kind: entry
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sidecar.errors import ExitCode, SidecarError
from sidecar.logs import set_up_logging
from sidecar.redact import redact

# Secrets that a user hands to azure-identity through the environment.
_SECRET_VARIABLES = ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PASSWORD", "AZURE_PASSWORD")


def run(act: Callable[[], int | None], *, level: int, file: Path | None = None) -> int:
    """Run a command with logging and error messages; its exit code."""
    try:
        set_up_logging(level, file=file, known=_known_secrets())
        return int(act() or ExitCode.OK)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except SystemExit:
        raise
    except BaseException as exc:
        return complain(exc, debug=level <= logging.DEBUG)


def complain(exc: BaseException, *, debug: bool = False) -> int:
    """Print an error and its hint; the exit code of the first of our errors in it."""
    error, known = _first_error(exc), _known_secrets()
    if error is None:
        if debug:
            raise exc
        print(f"sidecar: error: unexpected {type(exc).__name__}: {redact(str(exc), known)}", file=sys.stderr)
        print("sidecar: hint: run again with --log-level debug and report what it prints", file=sys.stderr)
        return ExitCode.INTERNAL
    print(f"sidecar: error: {redact(str(error), known)}", file=sys.stderr)
    if error.hint:
        print(f"sidecar: hint: {redact(error.hint, known)}", file=sys.stderr)
    return error.exit_code


def _known_secrets() -> list[str]:
    return [value for name in _SECRET_VARIABLES if (value := os.environ.get(name))]


def _first_error(exc: BaseException) -> SidecarError | None:
    if isinstance(exc, SidecarError):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        return next((found for part in exc.exceptions if (found := _first_error(part))), None)
    return None
