"""What the commands share: how a command is declared, how a key is named, how an image is unlocked.

Kind: entry
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypeVar

from encfs.errors import UsageError

if TYPE_CHECKING:
    from encfs.anchoring import AnchorStore
    from encfs.blobs import BlobAccess
    from encfs.block.cachesettings import CacheSettings
    from encfs.keys import Secret
    from encfs.keysource import KeySource
    from encfs.opening import UnlockOptions

FILE_DEADLINE = 60.0
# A store may be gone for a minute and more, and nobody is told of it but by waiting.
BLOB_DEADLINE = 150.0
R = TypeVar("R")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
KEY_FILE_HELP = "32 raw bytes, 64 hex digits or a JWK; - reads standard input"
KEY_CONFIG_HELP = """\
a key configuration names a key that a vault releases under attestation:
  {"key": {"kid": "NAME[/VERSION]", "authority": {"endpoint": HOST}, "akv": {"endpoint": HOST}},
   "key_derivation": {"salt": HEX, "label": TEXT}}        key_derivation for RSA keys only
"""


def run_trio(work: Callable[..., Awaitable[R]], *arguments: object) -> R:
    """Run `work(*arguments)` in an event loop of its own.

    The library is imported here, as what a command needs is everywhere: `encfs --help` has no use for it.
    """
    import trio

    return trio.run(work, *arguments)


class ShowVersion(argparse.Action):
    """--version; looks it up only when asked."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version, and end")

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> NoReturn:
        """Print it and end."""
        from encfs import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit()


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


def add_place(parser: argparse.ArgumentParser, *, writes: bool = False) -> None:
    """The image that a command works on: a local file, or a blob with the options that reach it."""
    parser.add_argument("image", metavar="IMAGE|URL", help="a file, or https://ACCOUNT.../CONTAINER/BLOB")
    add_store_options(parser, writes=writes)


def add_store_options(parser: argparse.ArgumentParser, *, writes: bool) -> None:
    """Options that reach a blob; `writes` adds those of a writer."""
    group = parser.add_argument_group("blobs", "without any of these, the blob is read as a stranger")
    who = group.add_mutually_exclusive_group()
    who.add_argument(
        "--identity", action="store_true", help="send tokens of this machine's managed or workload identity"
    )
    who.add_argument(
        "--sas-file",
        type=Path,
        metavar="FILE",
        help="holds a shared access signature, as the portal shows it",
    )
    group.add_argument(
        "--client-id", default="", metavar="ID", help="which managed identity, with --identity"
    )
    if writes:
        group.add_argument(
            "--take-over",
            action="store_true",
            help="end the lease that another has: its writer becomes read-only at once",
        )


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    """Options of a command that serves a volume."""
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="S",
        help=f"cut off a driver silent for so long (default: {FILE_DEADLINE:g}; blobs: {BLOB_DEADLINE:g})",
    )
    add_cache_options(parser)


def deadline_of(arguments: argparse.Namespace, place: Path | BlobAccess) -> float:
    """Seconds after which a silent driver is cut off.

    Raises:
        UsageError: not a positive number.
    """
    if arguments.deadline is None:
        return FILE_DEADLINE if isinstance(place, Path) else BLOB_DEADLINE
    if not arguments.deadline > 0:
        raise UsageError(f"--deadline {arguments.deadline:g}, wanted more than 0")
    return float(arguments.deadline)


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Options of the cache between a volume and its blob."""
    group = parser.add_argument_group("cache of a blob", "sizes are bytes, or with K, M or G")
    group.add_argument("--cache-size", metavar="N", help="all memory of the cache (default: 256M)")
    group.add_argument("--read-ahead", metavar="N", help="fetched before it is asked for (default: N/8)")
    group.add_argument(
        "--write-delay",
        type=float,
        metavar="S",
        help="written data waits so long for neighbours, unless fsync asks (default: 1)",
    )


def _cache_of(arguments: argparse.Namespace) -> CacheSettings:
    """Settings of the cache.

    Raises:
        UsageError: not a size, or sizes that do not fit together.
    """
    from encfs.block.cachesettings import parse_bytes, sized

    wishes: dict[str, int] = {}
    if (size := getattr(arguments, "cache_size", None)) is not None:
        wishes["size_bytes"] = parse_bytes(size)
    if (ahead := getattr(arguments, "read_ahead", None)) is not None:
        wishes["read_ahead"] = parse_bytes(ahead)
    delay = getattr(arguments, "write_delay", None)
    return sized(**wishes, delay=1.0 if delay is None else delay)


def place_of(arguments: argparse.Namespace) -> Path | BlobAccess:
    """The image as a path, or as a blob and how to reach it.

    Raises:
        UsageError: not an address, a signature where others can read it, or options that do not fit.
    """
    from encfs.block.bloburl import is_blob_url

    if is_blob_url(arguments.image):
        return blob_of(arguments, arguments.image)
    options = ("identity", "sas_file", "client_id", "take_over", "cache_size", "read_ahead", "write_delay")
    for option in options:
        if getattr(arguments, option, None) not in (None, False, ""):
            raise UsageError(
                f"--{option.replace('_', '-')} with a local image", hint="it is for blobs: https://..."
            )
    return Path(arguments.image)


def blob_of(arguments: argparse.Namespace, text: str) -> BlobAccess:
    """A blob and how to reach it; see `place_of`."""
    from encfs.blobs import BlobAccess, read_signature
    from encfs.block.bloburl import parse_blob_url

    url = parse_blob_url(text)
    if url.sas:
        raise UsageError(
            f"blob {url}: with a signature in the arguments, where every process can read it",
            hint="put what follows the question mark into a file: --sas-file FILE",
        )
    if arguments.client_id and not arguments.identity:
        raise UsageError("--client-id without --identity")
    if arguments.sas_file is not None:
        url = url.with_sas(read_signature(arguments.sas_file))
    take_over = getattr(arguments, "take_over", False)
    return BlobAccess(
        url, arguments.identity, arguments.client_id, take_over=take_over, cache=_cache_of(arguments)
    )


def add_unlock_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Options of every command that unlocks an image."""
    key = parser.add_mutually_exclusive_group(required=required)
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
    parser.add_argument(
        "--require",
        metavar="LEVEL",
        help="refuse an image protected less, before a key is asked for: integrity, rollback or verity",
    )
    parser.add_argument(
        "--anchor",
        metavar="FILE|vault",
        help="refuse an image older than the last one mounted; in a file, or a tag of the vault's key",
    )
    parser.add_argument(
        "--accept-rollback",
        action="store_true",
        help="mount an image older than its anchor, and anchor it anew",
    )
    parser.add_argument(
        "--root-hash", metavar="HEX", help="verify every block against this hash tree; implies read-only"
    )
    parser.epilog = KEY_CONFIG_HELP


def unlock_options(arguments: argparse.Namespace) -> UnlockOptions:
    """The options as a value."""
    from encfs.luks2.kdf import KdfLimits
    from encfs.opening import UnlockOptions
    from encfs.protection import parse_protection
    from encfs.verity.format import parse_root_hash

    return UnlockOptions(
        header=arguments.header,
        limits=KdfLimits.parse(arguments.kdf_limit) if arguments.kdf_limit else None,
        keyslot=arguments.keyslot,
        require_authenticated=arguments.require_authenticated_header,
        root_hash=None if arguments.root_hash is None else parse_root_hash(arguments.root_hash),
        require=None if arguments.require is None else parse_protection(arguments.require),
        anchor=_anchor(arguments),
        accept_rollback=arguments.accept_rollback,
    )


def _anchor(arguments: argparse.Namespace) -> AnchorStore | None:
    if arguments.anchor is None:
        if arguments.accept_rollback:
            raise UsageError("--accept-rollback without --anchor")
        return None
    if arguments.anchor == "vault":
        if arguments.key_config is None:
            raise UsageError("--anchor vault without --key-config", hint="which key's tag? or give a file")
        from encfs.azure import vault_anchor

        return vault_anchor(Path(arguments.key_config))
    from encfs.anchoring import FileAnchor

    return FileAnchor(Path(arguments.anchor))


async def passphrase_for(arguments: argparse.Namespace, place: Path | BlobAccess) -> Secret:
    """The key of an image, asked for after the image was found to be protected as required.

    Raises:
        ProtectionTooWeak: it is protected less.
        KeyUnavailable: the key could not be had.
    """
    from encfs.opening import check_before_key

    await check_before_key(place, unlock_options(arguments))
    return await key_source(arguments).passphrase()


def key_source(arguments: argparse.Namespace) -> KeySource:
    """Where the key comes from."""
    from encfs.keysource import KeyFile

    if arguments.key_file is not None:
        return KeyFile(arguments.key_file)
    from encfs.azure import released_key_source

    return released_key_source(Path(arguments.key_config))
