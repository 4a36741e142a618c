"""What the commands share: how a command is declared, and files within bounds.

Kind: entry
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

import trio

from sidecar.config import IdentityKind, IdentitySettings, SidecarSettings
from sidecar.errors import MalformedInput, UsageError

_MAX_FILE = 4 << 20

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run: TypeAlias = Callable[[argparse.Namespace], "int | None"]


class ShowVersion(argparse.Action):
    """--version; looks it up only when asked."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version, and end")

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> NoReturn:
        """Print it and end."""
        from sidecar import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit()


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


def add_identity(parser: argparse.ArgumentParser) -> None:
    """Declare who asks the vault."""
    parser.add_argument(
        "--identity",
        choices=tuple(IdentityKind),
        default=IdentityKind.AUTO,
        help="who asks the vault (default: SIDECAR_IDENTITY, else workload identity where its variables are "
        "set, else managed identity; cli: whoever az logged in)",
    )
    add_managed_identity(parser)


def add_managed_identity(parser: argparse.ArgumentParser) -> None:
    """Declare which managed identity is meant, where a machine has several."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--client-id", default="", metavar="ID", help="managed identity by client id")
    which.add_argument("--object-id", default="", metavar="ID", help="managed identity by object id")
    which.add_argument("--resource-id", default="", metavar="ID", help="managed identity by resource id")


def identity_of(arguments: argparse.Namespace) -> IdentitySettings:
    """What `add_identity` declared."""
    return IdentitySettings(
        IdentityKind(arguments.identity), arguments.client_id, arguments.object_id, arguments.resource_id
    )


def settings_with_identity(arguments: argparse.Namespace) -> SidecarSettings:
    """Settings with nothing but an identity."""
    return SidecarSettings(identity=identity_of(arguments))


async def stop_on_signal(stop: trio.Event) -> None:
    """Set `stop` at SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()


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
    except FileExistsError as exc:
        raise UsageError(
            f"file {path}: exists already", hint="secrets replace nothing: move it away, or name another one"
        ) from exc
    except OSError as exc:
        raise UsageError(f"file {path}: {exc.strerror}") from exc
    with os.fdopen(fd, "wb") as file:
        file.write(data)
