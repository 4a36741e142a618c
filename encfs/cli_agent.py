"""Commands of a container group: agent, wait.

Kind: entry
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from encfs.arguments import BLOB_DEADLINE, FILE_DEADLINE, Commands, command, run_trio
from encfs.errors import EncfsError, UsageError, first_error

if TYPE_CHECKING:
    from encfs.agent import Agent
    from encfs.keys import Secret
    from encfs.settings import AgentSettings, VolumeSettings

DEFAULT_PORT = 8090
# The predecessor's.
LEVEL_VARIABLE, FILE_VARIABLE = "LogLevel", "LogFile"
_MAX_CONFIG = 2 << 20

log = logging.getLogger("encfs.agent")


def add_commands(commands: Commands) -> None:
    """Declare the commands."""
    _add_agent(commands)
    _add_wait(commands)


def _add_agent(commands: Commands) -> None:
    parser = command(
        commands,
        "agent",
        _agent,
        "Mount the volumes of a container group and keep them mounted until SIGTERM.",
        "Settings are base64 JSON in the variable EncfsSideCarArgs, or in a file. LogLevel and LogFile are\n"
        "read as the predecessor did. Ends with the exit code of what went wrong; see docs/agent.md.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, as JSON or base64 of it")
    parser.add_argument(
        "--check", action="store_true", help="read the settings, say what is wrong, mount nothing"
    )
    parser.add_argument(
        "--insecure-raw-key",
        action="store_true",
        help="use raw_key of the settings: no attestation protects it",
    )
    http = parser.add_mutually_exclusive_group()
    http.add_argument(
        "--port",
        type=int,
        metavar="P",
        help=f"HTTP on 127.0.0.1 (default {DEFAULT_PORT}, 0 for any free one)",
    )
    http.add_argument("--no-http", action="store_true", help="no health, metrics and volumes over HTTP")
    parser.add_argument(
        "--result", type=Path, default=Path("result"), metavar="FILE", help="1 or 0, and why in FILE.json"
    )
    parser.add_argument(
        "--drain",
        type=float,
        default=25,
        metavar="S",
        help="unmount within so long, less than the grace period",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="S",
        help=f"cut off a driver silent for so long (default: {FILE_DEADLINE:g}; blobs: {BLOB_DEADLINE:g})",
    )
    parser.add_argument(
        "--lease-wait",
        type=float,
        default=70,
        metavar="S",
        help="wait for another's lease on a blob to run out (default: 70; an earlier life's lasts 60)",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error (default: info)")
    parser.add_argument(
        "--log-file", type=Path, metavar="FILE", help="append to it (default: standard error)"
    )


def _agent(arguments: argparse.Namespace) -> int | None:
    from encfs import residency
    from encfs.settingsparse import VARIABLE, parse_settings

    residency.forbid_dumps()  # before a key is read
    name, text = VARIABLE, os.environ.pop(VARIABLE, "").encode()
    if arguments.config is not None:
        name, text = f"settings {arguments.config}", _read(arguments.config)
    elif not text:
        raise UsageError(f"{VARIABLE}: not set", hint="set it, or name a file: encfs agent --config FILE")
    _set_up_logging(arguments)
    settings = parse_settings(text, name, allow_raw_key=arguments.insecure_raw_key)
    _set_up_logging(arguments, known=settings.secrets())
    for warning in settings.warnings:
        log.warning("%s: %s", name, warning)
    if arguments.check:
        for volume in settings.volumes:
            mode = "read-write" if volume.read_write else "read-only"
            print(f"{volume.mount_point}: {volume.name}, {mode}")
        return None
    residency.keep_heap()
    try:
        run_trio(_run, arguments, settings)
    except (EncfsError, BaseExceptionGroup) as exc:
        if arguments.log_format != "json" or (error := first_error(exc)) is None:
            raise
        log.error("%s%s", error, f"; {error.hint}" if error.hint else "")
        return error.exit_code
    return None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_CONFIG + 1)
    except OSError as exc:
        raise UsageError(f"settings {path}: {exc.strerror}") from exc


def _set_up_logging(arguments: argparse.Namespace, known: tuple[str, ...] = ()) -> None:
    from encfs.agentlog import LEVELS, set_up_logging
    from encfs.azure import redact

    level = arguments.log_level or os.environ.get(LEVEL_VARIABLE) or "info"
    if level.lower() not in LEVELS:
        raise UsageError(f"log level {level[:20]!r}: wanted one of {', '.join(LEVELS)}")
    number = logging.DEBUG if arguments.verbose else LEVELS[level.lower()]
    file = arguments.log_file or (Path(name) if (name := os.environ.get(FILE_VARIABLE)) else None)
    set_up_logging(number, arguments.log_format, lambda text: redact(text, known), file=file)


async def _run(arguments: argparse.Namespace, settings: AgentSettings) -> None:
    from encfs.agent import Agent, AgentOptions
    from encfs.azure import KeyReleaser
    from encfs.fuse import check_available

    check_available()
    options = AgentOptions(
        result=arguments.result,
        file_deadline=arguments.deadline or FILE_DEADLINE,
        blob_deadline=arguments.deadline or BLOB_DEADLINE,
        lease_wait=arguments.lease_wait,
        drain=arguments.drain,
    )
    points = " ".join(volume.mount_point for volume in settings.volumes)
    async with KeyReleaser(os.environ, client_id=settings.client_id, certcache=settings.certcache) as keys:

        async def passphrase(volume: VolumeSettings) -> Secret:
            if volume.raw_key is not None:
                return volume.raw_key
            assert volume.key is not None
            return await keys.passphrase(volume.key, access_token=volume.bearer_token)

        agent = Agent(settings, options, passphrase)
        if arguments.no_http:
            await agent.run(lambda: print(f"encfs agent: ready {points}", flush=True))
        else:
            await _run_with_http(agent, arguments.port, points)


async def _run_with_http(agent: Agent, port: int | None, points: str) -> None:
    from encfs.agenthttp import AgentApi
    from encfs.azure import listen_on_loopback, serve_http

    try:
        bound = listen_on_loopback(DEFAULT_PORT if port is None else port)
    except UsageError as exc:
        if port is not None:
            raise
        # Another agent of the group has it; nobody asked for this one.
        log.warning("%s; taking a free port", exc)
        bound = listen_on_loopback(0)
    address = f"http://127.0.0.1:{bound.getsockname()[1]}"
    log.info("listening on %s", address)
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_http, AgentApi(agent), bound)
        await agent.run(lambda: print(f"encfs agent: ready {points} {address}", flush=True))
        nursery.cancel_scope.cancel()


def _add_wait(commands: Commands) -> None:
    parser = command(
        commands,
        "wait",
        _wait,
        "Wait until volumes are mounted and readable, as seen from here.",
        "For init containers, and in front of an application: encfs wait /mnt/data && exec app",
    )
    parser.add_argument("mount_point", type=Path, nargs="+", metavar="mountpoint")
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="S", help="for all of them (default: 60)"
    )


def _wait(arguments: argparse.Namespace) -> None:
    from encfs.wait import wait_for

    def ready(path: Path) -> None:
        print(f"ready {path}", flush=True)

    if arguments.timeout < 0:
        raise UsageError(f"timeout {arguments.timeout:g} s: wanted 0 or more")
    run_trio(wait_for, [path.absolute() for path in arguments.mount_point], arguments.timeout, ready)
