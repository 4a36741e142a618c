"""What the commands share: how a command is declared, how a key is named, how an image is unlocked.

Kind: entry
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from encfs.keysource import KeySource
    from encfs.opening import UnlockOptions

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
KEY_FILE_HELP = "32 raw bytes, 64 hex digits or a JWK; - reads standard input"
KEY_CONFIG_HELP = """\
a key configuration names a key that a vault releases under attestation:
  {"key": {"kid": "NAME[/VERSION]", "authority": {"endpoint": HOST}, "akv": {"endpoint": HOST}},
   "key_derivation": {"salt": HEX, "label": TEXT}}        key_derivation for RSA keys only
"""


def command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    summary: str,
    more: str = "",
) -> argparse.ArgumentParser:
    """Declare a command; `summary` is one line, `more` teaches."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary}\n\n{more}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_unlock_options(parser: argparse.ArgumentParser) -> None:
    """Options of every command that unlocks an image."""
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--key-file", metavar="FILE", help=KEY_FILE_HELP)
    key.add_argument("--key-config", metavar="FILE", help="JSON that names the vault key, see below")
    parser.add_argument("--header", type=Path, metavar="FILE", help="detached LUKS2 header of the image")
    parser.add_argument("--keyslot", type=int, metavar="N", help="try only this keyslot")
    parser.add_argument(
        "--kdf-limit", default="", metavar="NAME=N,...", help="what key derivation may cost (see errors)"
    )
    parser.add_argument(
        "--require-authenticated-header", action="store_true", help="refuse a header without a right MAC"
    )
    parser.epilog = KEY_CONFIG_HELP


def unlock_options(arguments: argparse.Namespace) -> UnlockOptions:
    """The options as a value."""
    from encfs.luks2.kdf import KdfLimits
    from encfs.opening import UnlockOptions

    return UnlockOptions(
        header=arguments.header,
        limits=KdfLimits.parse(arguments.kdf_limit) if arguments.kdf_limit else None,
        keyslot=arguments.keyslot,
        require_authenticated=arguments.require_authenticated_header,
    )


def key_source(arguments: argparse.Namespace) -> KeySource:
    """Where the key comes from."""
    from encfs.keysource import KeyFile

    if arguments.key_file is not None:
        return KeyFile(arguments.key_file)
    from encfs.azure import released_key_source

    return released_key_source(Path(arguments.key_config))
