"""The `encfs` command: arguments, messages and exit codes.

Kind: entry
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from encfs import cli_agent, cli_bench, cli_images, cli_keys, cli_upload
from encfs.arguments import (
    Commands,
    ShowVersion,
    add_place,
    add_serving_options,
    add_unlock_options,
    command,
    deadline_of,
    passphrase_for,
    place_of,
    run_trio,
    unlock_options,
)
from encfs.errors import EncfsError, ExitCode

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
    parser.add_argument("--version", action=ShowVersion)
    parser.add_argument("--verbose", action="store_true", help="log everything, and show tracebacks")
    parser.set_defaults(info=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    cli_images.add_commands(commands)
    cli_keys.add_commands(commands)
    cli_agent.add_commands(commands)
    cli_upload.add_commands(commands)
    cli_bench.add_commands(commands)
    _add_expose(commands)
    _add_mount(commands)
    _add_unmount(commands)
    return parser


def _add_expose(commands: Commands) -> None:
    parser = command(
        commands,
        "expose",
        _expose,
        "Serve only the FUSE layer: DIR/data is the plaintext device. Runs in the foreground.",
        "Stop it with SIGTERM or Ctrl-C, or by unmounting DIR.",
    )
    add_place(parser, writes=True)
    parser.add_argument("directory", type=Path)
    add_unlock_options(parser)
    parser.add_argument("--read-only", action="store_true")
    add_serving_options(parser)


def _expose(arguments: argparse.Namespace) -> None:
    from encfs import supervisor
    from encfs.fuse import check_available
    from encfs.mount import check_mount_point
    from encfs.opening import open_volume

    place = place_of(arguments)
    deadline = deadline_of(arguments, place)

    async def run() -> None:
        check_available()
        check_mount_point(arguments.directory)
        passphrase = await passphrase_for(arguments, place)
        volume = await open_volume(
            place, passphrase, read_only=arguments.read_only, options=unlock_options(arguments)
        )
        directory = arguments.directory.resolve()
        print_ready = lambda: print(f"ready {directory}/data", flush=True)  # noqa: E731
        await supervisor.run_expose(volume, directory, deadline=deadline, on_ready=print_ready)

    run_trio(run)


def _add_mount(commands: Commands) -> None:
    parser = command(
        commands,
        "mount",
        _mount,
        "Mount the file system in an image; returns when it is mounted.",
        "Needs root (loop device, mount) unless --via fuse2fs. Runs in the background until `encfs unmount`.",
    )
    add_place(parser, writes=True)
    parser.add_argument("mount_point", type=Path, metavar="mountpoint")
    add_unlock_options(parser)
    parser.add_argument(
        "--read-only", action="store_true", help="refuse writes; not even the journal is replayed"
    )
    parser.add_argument("--foreground", action="store_true", help="stay; SIGTERM or Ctrl-C unmounts")
    parser.add_argument(
        "--via",
        choices=("kernel", "fuse2fs"),
        default="kernel",
        help="kernel: ext4 on a loop device, needs root; fuse2fs: needs only /dev/fuse, has no journal",
    )
    add_serving_options(parser)


def _mount(arguments: argparse.Namespace) -> int | None:
    from encfs import rundir
    from encfs.background import in_background

    if arguments.foreground:
        _serve_mount(arguments, lambda: print(f"ready {arguments.mount_point}", flush=True))
        return None
    log_file = rundir.log_of(arguments.mount_point)
    return in_background(lambda on_ready: _serve_mount(arguments, on_ready), complain, log_file)


def _serve_mount(arguments: argparse.Namespace, on_ready: Callable[[], None]) -> None:
    from encfs import residency, supervisor
    from encfs.fuse import check_available
    from encfs.mount import check_mount_point
    from encfs.opening import open_volume

    place = place_of(arguments)
    if isinstance(place, Path):
        place = place.resolve()
    deadline = deadline_of(arguments, place)

    async def run() -> None:
        check_available()
        check_mount_point(arguments.mount_point)
        passphrase = await passphrase_for(arguments, place)
        volume = await open_volume(
            place,
            passphrase,
            read_only=arguments.read_only,
            options=unlock_options(arguments),
        )
        await supervisor.run_mount(
            volume,
            arguments.mount_point.resolve(),
            via=arguments.via,
            deadline=deadline,
            on_ready=on_ready,
        )

    residency.keep_heap()
    run_trio(run)


def _add_unmount(commands: Commands) -> None:
    parser = command(
        commands,
        "unmount",
        _unmount,
        "Unmount; returns when everything is stored in the image, or says what is not.",
    )
    parser.add_argument("mount_point", type=Path, metavar="mountpoint")


def _unmount(arguments: argparse.Namespace) -> None:
    from encfs.unmounting import unmount

    run_trio(unmount, arguments.mount_point)


if __name__ == "__main__":
    main()
