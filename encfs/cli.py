"""The `encfs` command: arguments, messages and exit codes.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import trio

from encfs import __version__
from encfs.errors import EncfsError, ExitCode, UsageError

if TYPE_CHECKING:
    from encfs.keysource import KeySource

_EPILOG = "exit codes:\n" + "\n".join(f"  {code.value:3}  {code.name.lower()}" for code in ExitCode)


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command and exit with a documented code; no traceback reaches a user."""
    arguments = _parser().parse_args(argv)
    level = logging.DEBUG if arguments.verbose else logging.INFO if arguments.info else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="encfs: %(levelname)s: %(message)s")
    logging.addLevelName(logging.WARNING, "warning")
    logging.addLevelName(logging.ERROR, "error")
    logging.addLevelName(logging.INFO, "info")
    try:
        code = int(arguments.run(arguments) or ExitCode.OK)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    except BaseException as exc:
        if isinstance(exc, SystemExit):
            raise
        code = complain(exc, verbose=arguments.verbose)
    sys.exit(code)


def complain(exc: BaseException, *, verbose: bool) -> int:
    """Print an error and its hint; the exit code is the first real cause's."""
    error = _first_error(exc)
    if error is None:
        if verbose:
            raise exc
        print(f"encfs: error: unexpected {type(exc).__name__}: {exc}", file=sys.stderr)
        print("encfs: hint: run again with --verbose and report what it prints", file=sys.stderr)
        return ExitCode.INTERNAL
    print(f"encfs: error: {error}", file=sys.stderr)
    if error.hint:
        print(f"encfs: hint: {error.hint}", file=sys.stderr)
    return error.exit_code


def _first_error(exc: BaseException) -> EncfsError | None:
    """The first of our errors in an exception or a group of them."""
    if isinstance(exc, EncfsError):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        for part in exc.exceptions:
            if (found := _first_error(part)) is not None:
                return found
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="encfs",
        description="Encrypted volumes: LUKS2 images mounted as plain files, without device-mapper.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"encfs {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log everything, and show tracebacks")
    parser.set_defaults(info=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_create(commands)
    _add_info(commands)
    _add_check(commands)
    _add_expose(commands)
    _add_mount(commands)
    _add_unmount(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    summary: str,
    more: str = "",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary}\n\n{more}".strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_key_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--key-file", metavar="FILE", help="32 raw bytes, 64 hex digits or a JWK; - reads standard input"
    )
    group.add_argument(
        "--key-config", metavar="FILE", help="JSON that names the vault key to release under attestation"
    )


def _key_source(arguments: argparse.Namespace) -> KeySource:
    from encfs.keysource import KeyFile

    if arguments.key_file is not None:
        return KeyFile(arguments.key_file)
    from encfs.azure import released_key_source

    return released_key_source(Path(arguments.key_config))


def _add_create(commands: Commands) -> None:
    parser = _command(
        commands,
        "create",
        _create,
        "Make an encrypted image, empty or from a folder.",
        "Needs neither root nor device-mapper. Plaintext never touches the disk.\n\n"
        "example: encfs create data.img --key-file key.bin --from ./data --size 64M",
    )
    parser.add_argument("image", type=Path)
    parser.add_argument(
        "--key-file", required=True, metavar="FILE", help="32 raw bytes, 64 hex digits or a JWK"
    )
    parser.add_argument("--size", help="of the whole image, like 64M or 2G (default: what the folder needs)")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="folder to copy into it")
    parser.add_argument("--sector-size", type=int, choices=(512, 1024, 2048, 4096), default=4096)
    parser.add_argument("--pbkdf", choices=("pbkdf2", "argon2id"), default="pbkdf2")
    parser.add_argument("--label", default="", help="name kept in the header, readable by anyone")
    parser.add_argument("--force", action="store_true", help="replace an existing image")
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
        force=arguments.force,
    )
    check_available()
    passphrase = read_key_file(arguments.key_file)
    created = trio.run(create_image, arguments.image, passphrase, options)
    if arguments.json:
        print(json.dumps({"image": str(created.path), "size": created.size, "uuid": created.uuid}))
    else:
        print(f"{created.path}: {created.size} bytes, uuid {created.uuid}")


def _add_info(commands: Commands) -> None:
    parser = _command(commands, "info", _info, "Show what an image is; needs no key and shows no secret.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--json", action="store_true")


def _info(arguments: argparse.Namespace) -> None:
    from encfs.luks2.describe import describe, to_json
    from encfs.opening import inspect

    header, size = inspect(arguments.image)
    print(to_json(header, size) if arguments.json else describe(header, size))


def _add_check(commands: Commands) -> None:
    parser = _command(
        commands,
        "check",
        _check,
        "Check an image with its key: header, keyslot, digest and file system. Changes nothing.",
    )
    parser.add_argument("image", type=Path)
    _add_key_options(parser)
    parser.add_argument("--json", action="store_true")


def _check(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from encfs.checking import Finding, check_image
    from encfs.fuse import check_available

    async def run() -> list[Finding]:
        check_available()
        passphrase = await _key_source(arguments).passphrase()
        return await check_image(arguments.image, passphrase)

    findings = trio.run(run)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{'ok' if finding.ok else 'BAD':4} {finding.name:12} {finding.detail}")
    broken = [finding.name for finding in findings if not finding.ok]
    if "file system" in broken:
        return ExitCode.FILE_SYSTEM
    return ExitCode.IMAGE if broken else ExitCode.OK


def _add_expose(commands: Commands) -> None:
    parser = _command(
        commands,
        "expose",
        _expose,
        "Serve only the FUSE layer: DIR/data is the plaintext device. Runs in the foreground.",
        "Stop it with SIGTERM or Ctrl-C, or by unmounting DIR.",
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("directory", type=Path)
    _add_key_options(parser)
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument(
        "--deadline", type=float, default=60, metavar="S", help="cut off a driver silent for so long"
    )


def _expose(arguments: argparse.Namespace) -> None:
    from encfs import supervisor
    from encfs.fuse import check_available
    from encfs.mount import check_mount_point
    from encfs.opening import open_volume

    async def run() -> None:
        check_available()
        check_mount_point(arguments.directory)
        passphrase = await _key_source(arguments).passphrase()
        volume = await open_volume(arguments.image, passphrase, read_only=arguments.read_only)
        directory = arguments.directory.resolve()
        print_ready = lambda: print(f"ready {directory}/data", flush=True)  # noqa: E731
        await supervisor.run_expose(volume, directory, deadline=arguments.deadline, on_ready=print_ready)

    trio.run(run)


def _add_mount(commands: Commands) -> None:
    parser = _command(
        commands,
        "mount",
        _mount,
        "Mount the file system in an image; returns when it is mounted.",
        "Needs root (loop device, mount). The volume is served in the background until `encfs unmount`.",
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("mount_point", type=Path, metavar="mountpoint")
    _add_key_options(parser)
    parser.add_argument(
        "--read-only", action="store_true", help="refuse writes; not even the journal is replayed"
    )
    parser.add_argument("--foreground", action="store_true", help="stay; SIGTERM or Ctrl-C unmounts")
    parser.add_argument("--fs-type", choices=("ext4",), default="ext4", help=argparse.SUPPRESS)
    parser.add_argument(
        "--deadline", type=float, default=60, metavar="S", help="cut off a driver silent for so long"
    )


def _mount(arguments: argparse.Namespace) -> int | None:
    from encfs.background import in_background

    if arguments.foreground:
        _serve_mount(arguments, lambda: print(f"ready {arguments.mount_point}", flush=True))
        return None
    return in_background(lambda on_ready: _serve_mount(arguments, on_ready), complain)


def _serve_mount(arguments: argparse.Namespace, on_ready: Callable[[], None]) -> None:
    from encfs import residency, supervisor
    from encfs.fuse import check_available
    from encfs.mount import check_mount_point
    from encfs.opening import open_volume

    async def run() -> None:
        check_available()
        check_mount_point(arguments.mount_point)
        passphrase = await _key_source(arguments).passphrase()
        volume = await open_volume(arguments.image.resolve(), passphrase, read_only=arguments.read_only)
        await supervisor.run_mount(
            volume,
            arguments.mount_point.resolve(),
            fs_type=arguments.fs_type,
            deadline=arguments.deadline,
            on_ready=on_ready,
        )

    residency.keep_heap(8 << 20)
    trio.run(run)


def _add_unmount(commands: Commands) -> None:
    parser = _command(
        commands,
        "unmount",
        _unmount,
        "Unmount; returns when everything is stored in the image, or says what is not.",
    )
    parser.add_argument("mount_point", type=Path, metavar="mountpoint")


def _unmount(arguments: argparse.Namespace) -> None:
    from encfs.unmounting import unmount

    trio.run(unmount, arguments.mount_point)


if __name__ == "__main__":
    main()
