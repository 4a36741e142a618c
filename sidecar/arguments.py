"""What the commands share: how a command is declared, and files within bounds.

Kind: entry
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from sidecar.errors import MalformedInput, UsageError

_MAX_FILE = 4 << 20

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run: TypeAlias = Callable[[argparse.Namespace], "int | None"]


def command(commands: Commands, name: str, run: Run, summary: str, more: str = "") -> argparse.ArgumentParser:
    """Declare a command; `summary` is one line, `more` teaches."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary}\n\n{more}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_snp(parser: argparse.ArgumentParser) -> None:
    """Declare --snp."""
    from sidecar.snp.device import KINDS

    parser.add_argument(
        "--snp",
        choices=KINDS,
        help="where reports come from (default: SIDECAR_SNP, else the hardware; software only by name)",
    )


def read_file(path: Path) -> bytes:
    """A file within bounds, `-` for standard input; UsageError when it cannot be read."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(_MAX_FILE + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE + 1)
    except OSError as exc:
        raise UsageError(f"file {path}: {exc.strerror}") from exc
    if len(data) > _MAX_FILE:
        raise MalformedInput(f"file {path}: over {_MAX_FILE} bytes")
    return data


def write_secret(path: Path, data: bytes) -> None:
    """A new file, mode 0600; an existing one is never replaced."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise UsageError(f"file {path}: {exc.strerror}") from exc
    with os.fdopen(fd, "wb") as file:
        file.write(data)
