"""Commands on images that are not mounted: create, info, check, extract.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from encfs.arguments import (
    KEY_FILE_HELP,
    Commands,
    add_place,
    add_unlock_options,
    command,
    passphrase_for,
    place_of,
    run_trio,
    unlock_options,
)
from encfs.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from encfs.luks2.unlock import Header


def add_commands(commands: Commands) -> None:
    """Declare the commands."""
    _add_create(commands)
    _add_info(commands)
    _add_check(commands)
    _add_extract(commands)
    _add_seal(commands)


def _add_create(commands: Commands) -> None:
    parser = command(
        commands,
        "create",
        _create,
        "Make an encrypted image, empty or from a folder.",
        "Needs neither root nor device-mapper. Plaintext never touches the disk.\n\n"
        "example: encfs create data.img --key-file key.bin --from ./data --size 64M",
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--key-file", required=True, metavar="FILE", help=KEY_FILE_HELP)
    parser.add_argument("--size", help="of the whole image, like 64M or 2G (default: what the folder needs)")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="folder to copy into it")
    parser.add_argument("--sector-size", type=int, choices=(512, 1024, 2048, 4096), default=4096)
    parser.add_argument(
        "--pbkdf",
        choices=("pbkdf2", "argon2id"),
        help="default: pbkdf2 for a random key, which needs no stretching, argon2id for a typed one",
    )
    parser.add_argument("--label", default="", help="name kept in the header, readable by anyone")
    parser.add_argument("--kid", default="", help="name of the key in its vault, kept in the header")
    parser.add_argument(
        "--reproducible",
        action="store_true",
        help="same folder, same key, same image, byte for byte; SOURCE_DATE_EPOCH clamps times",
    )
    parser.add_argument(
        "--integrity",
        choices=("hmac-sha256",),
        help="an authentication tag for every sector: a changed one is an error, not garbage",
    )
    parser.add_argument(
        "--verity",
        action="store_true",
        help="add a dm-verity hash tree and print its root hash, for mount --root-hash",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing image")
    parser.add_argument("--quiet", action="store_true", help="no progress line on a terminal")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def _create(arguments: argparse.Namespace) -> None:
    from encfs.create import CreateOptions, create_image, parse_size
    from encfs.fuse import check_available
    from encfs.keysource import read_key_file

    if arguments.size is None and arguments.source is None:
        raise UsageError("neither --size nor --from given", hint="say how large, or what goes into it")
    options = CreateOptions(
        size=None if arguments.size is None else parse_size(arguments.size),
        source=arguments.source,
        sector_size=arguments.sector_size,
        pbkdf=arguments.pbkdf,
        label=arguments.label,
        kid=arguments.kid,
        reproducible=arguments.reproducible,
        verity=arguments.verity,
        integrity=arguments.integrity is not None,
        force=arguments.force,
        progress=not (arguments.quiet or arguments.json),
    )
    check_available()
    passphrase = read_key_file(arguments.key_file)
    created = run_trio(create_image, arguments.image, passphrase, options)
    if arguments.json:
        print(json.dumps(asdict(created) | {"path": str(created.path)}))
    else:
        key = f", key check value {created.key_check_value}" if created.key_check_value else ""
        print(f"{created.path}: {created.size} bytes, uuid {created.uuid}{key}")
        if created.root_hash is not None:
            print(f"root hash {created.root_hash}")


def _add_info(commands: Commands) -> None:
    parser = command(commands, "info", _info, "Show what an image is; needs no key and shows no secret.")
    add_place(parser)
    parser.add_argument("--header", type=Path, metavar="FILE", help="detached LUKS2 header of the image")
    parser.add_argument("--json", action="store_true")


def _info(arguments: argparse.Namespace) -> None:
    from encfs.luks2.describe import describe, to_json
    from encfs.opening import UnlockOptions, open_place

    place = place_of(arguments)

    async def run() -> tuple[Header, int]:
        image = await open_place(place, UnlockOptions(header=arguments.header), read_only=True, lock=False)
        await image.aclose()
        return image.header, image.header_source.size

    header, size = run_trio(run)
    show = to_json if arguments.json else describe
    print(show(header, size))
    for warning in header.warnings:
        print(f"encfs: warning: image {place}: {warning}", file=sys.stderr)


def _add_check(commands: Commands) -> None:
    parser = command(
        commands,
        "check",
        _check,
        "Check an image with its key: header, keyslot, digest and file system. Changes nothing.",
        "--deep reads and verifies every block of a volume with integrity, or of a sealed one with its\n"
        "--root-hash, and names the files that are damaged.",
    )
    add_place(parser)
    add_unlock_options(parser)
    parser.add_argument("--deep", action="store_true", help="verify every block")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="with --deep: an interrupted check goes on from it"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress line on a terminal")
    parser.add_argument("--json", action="store_true")


def _check(arguments: argparse.Namespace) -> int:
    from encfs.checking import Finding, check_image
    from encfs.deepcheck import check_deep
    from encfs.fuse import check_available

    place = place_of(arguments)
    if arguments.state is not None and not arguments.deep:
        raise UsageError("--state without --deep")

    async def run() -> list[Finding]:
        check_available()
        passphrase = await passphrase_for(arguments, place)
        options = unlock_options(arguments)
        found = await check_image(place, passphrase, options)
        if arguments.deep:
            show = not (arguments.quiet or arguments.json)
            damage = await check_deep(place, passphrase, options, state=arguments.state, show=show)
            found.append(Finding("data", damage.none, damage.text()))
        return found

    findings = run_trio(run)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{'ok' if finding.ok else 'BAD':4} {finding.name:12} {finding.detail}")
    broken = [finding.name for finding in findings if not finding.ok]
    if "data" in broken:
        return ExitCode.TAMPERED
    if "file system" in broken:
        return ExitCode.FILE_SYSTEM
    return ExitCode.IMAGE if broken else ExitCode.OK


def _add_extract(commands: Commands) -> None:
    parser = command(
        commands,
        "extract",
        _extract,
        "Copy all files out of an image into a new folder, without a mount.",
        "Needs FUSE only, no root and no loop device; without root, the files belong to whoever runs it.\n"
        "With --in-memory it needs not even FUSE, but memory for all that the volume holds.",
    )
    add_place(parser)
    parser.add_argument("directory", type=Path, help="must be empty or not exist")
    parser.add_argument(
        "--in-memory", action="store_true", help="decrypt into memory instead of serving FUSE"
    )
    add_unlock_options(parser)


def _extract(arguments: argparse.Namespace) -> None:
    from encfs.extracting import extract
    from encfs.fuse import check_available

    place = place_of(arguments)

    async def run() -> int:
        if not arguments.in_memory:
            check_available()
        passphrase = await passphrase_for(arguments, place)
        options = unlock_options(arguments)
        return await extract(place, arguments.directory, passphrase, options, memory=arguments.in_memory)

    print(f"{arguments.directory}: {run_trio(run)} entries")


def _add_seal(commands: Commands) -> None:
    parser = command(
        commands,
        "seal",
        _seal,
        "Add a dm-verity hash tree to an image and print its root hash; needs no key.",
        "Afterwards `mount --root-hash HEX` verifies every block, read-only: a changed, moved or older\n"
        "block is an error. Tell the root hash by a way that the store's owner cannot change.\n\n"
        "the same as: veritysetup format IMAGE IMAGE --hash-offset SIZE --data-blocks SIZE/4096",
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--force", action="store_true", help="replace the tree of a sealed image")
    parser.add_argument("--quiet", action="store_true", help="no progress line on a terminal")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def _seal(arguments: argparse.Namespace) -> None:
    from encfs.sealing import Sealed, seal_image

    async def run() -> Sealed:
        show = not (arguments.quiet or arguments.json)
        return await seal_image(arguments.image, force=arguments.force, show=show)

    sealed = run_trio(run)
    if arguments.json:
        print(json.dumps(asdict(sealed) | {"path": str(sealed.path)}))
    else:
        print(sealed.root_hash)
