"""`encfs key`: add, remove, rotate keys of an image, and sign its header.

Kind: entry
"""

from __future__ import annotations

import argparse
from pathlib import Path

from encfs.arguments import (
    KEY_FILE_HELP,
    Commands,
    add_unlock_options,
    command,
    passphrase_for,
    run_trio,
    unlock_options,
)


def add_commands(commands: Commands) -> None:
    """Declare the commands."""
    parser = commands.add_parser(
        "key",
        help="Add, remove or rotate the keys of an image.",
        description="Keys of an image. Every change is safe at any moment: interrupted, the image opens with "
        "the old key or the new one. Data is not encrypted anew: whoever had the volume key still has it.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add = command(actions, "add", _add, "Let one more key open the image.")
    _add_image(add)
    _add_new_key(add)
    add.add_argument("--new-keyslot", type=int, metavar="N", help="number for it (default: a free one)")
    remove = command(actions, "remove", _remove, "Take a key away; offer one that stays.")
    _add_image(remove)
    remove.add_argument("--remove", type=int, required=True, metavar="N", help="keyslot to remove")
    remove.add_argument(
        "--force",
        action="store_true",
        help="even the one that was just opened: without another key, all is lost",
    )
    rotate = command(
        actions,
        "rotate",
        _rotate,
        "Replace a key by a new one.",
        "The old key goes only after the image was opened with the new one. After a crash, run it again.",
    )
    _add_image(rotate)
    _add_new_key(rotate)
    sign = command(
        actions,
        "authenticate",
        _authenticate,
        "Put a MAC on the header, or renew it after another tool changed the header.",
    )
    _add_image(sign)


def _add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path)
    add_unlock_options(parser)


def _add_new_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--new-key-file", required=True, metavar="FILE", help=KEY_FILE_HELP)
    parser.add_argument("--new-kid", default="", help="name of the new key in its vault, kept in the header")


def _add(arguments: argparse.Namespace) -> None:
    from encfs.keysource import read_key_file
    from encfs.rekeying import add_key

    new = read_key_file(arguments.new_key_file)

    async def run() -> int:
        passphrase = await passphrase_for(arguments, arguments.image)
        return add_key(
            arguments.image,
            passphrase,
            new,
            unlock_options(arguments),
            kid=arguments.new_kid,
            keyslot=arguments.new_keyslot,
        )

    print(f"{arguments.image}: keyslot {run_trio(run)} added")


def _remove(arguments: argparse.Namespace) -> None:
    from encfs.rekeying import remove_key

    async def run() -> None:
        passphrase = await passphrase_for(arguments, arguments.image)
        remove_key(
            arguments.image, passphrase, arguments.remove, unlock_options(arguments), force=arguments.force
        )

    run_trio(run)
    print(f"{arguments.image}: keyslot {arguments.remove} removed")


def _rotate(arguments: argparse.Namespace) -> None:
    from encfs.keysource import read_key_file
    from encfs.rekeying import rotate_key

    new = read_key_file(arguments.new_key_file)

    async def run() -> None:
        passphrase = await passphrase_for(arguments, arguments.image)
        rotate_key(arguments.image, passphrase, new, unlock_options(arguments), kid=arguments.new_kid)

    run_trio(run)
    print(f"{arguments.image}: the old key is gone, the new one opens it")


def _authenticate(arguments: argparse.Namespace) -> None:
    from encfs.rekeying import sign_header

    async def run() -> None:
        passphrase = await passphrase_for(arguments, arguments.image)
        sign_header(arguments.image, passphrase, unlock_options(arguments))

    run_trio(run)
    print(f"{arguments.image}: header authenticated")
