"""The `sidecar` command: arguments, messages and exit codes.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio

from sidecar import __version__, cli_keys, cli_policy_layers, cli_report
from sidecar.arguments import Commands, add_snp, command, read_file, write_secret
from sidecar.errors import ExitCode, SidecarError, UsageError

_EPILOG = "exit codes:\n" + "\n".join(f"  {code.value:3}  {code.name.lower()}" for code in ExitCode)


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command and exit with a documented code; no traceback reaches a user."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=arguments.log_level.upper(), stream=sys.stderr, format="sidecar: %(levelname)s: %(message)s"
    )
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.addLevelName(level, logging.getLevelName(level).lower())
    for noisy in ("azure", "httpx", "httpcore", "msal", "hypercorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        code = int(arguments.run(arguments) or ExitCode.OK)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    except SystemExit:
        raise
    except BaseException as exc:
        code = complain(exc, debug=arguments.log_level == "debug")
    sys.exit(code)


def complain(exc: BaseException, *, debug: bool = False) -> int:
    """Print an error and its hint; the exit code of the first of our errors in it."""
    error = _first_error(exc)
    if error is None:
        if debug:
            raise exc
        print(f"sidecar: error: unexpected {type(exc).__name__}: {exc}", file=sys.stderr)
        print("sidecar: hint: run again with --log-level debug and report what it prints", file=sys.stderr)
        return ExitCode.INTERNAL
    print(f"sidecar: error: {error}", file=sys.stderr)
    if error.hint:
        print(f"sidecar: hint: {error.hint}", file=sys.stderr)
    return error.exit_code


def _first_error(exc: BaseException) -> SidecarError | None:
    if isinstance(exc, SidecarError):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        return next((found for part in exc.exceptions if (found := _first_error(part))), None)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sidecar",
        description="SEV-SNP attestation and secure key release for confidential containers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sidecar {__version__}")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands)
    cli_report.add_commands(commands)
    _add_attest(commands)
    _add_release(commands)
    _add_policy(commands)
    _add_local(commands)
    cli_keys.add_commands(commands)
    return parser


# -- serve ----------------------------------------------------------------------------------------


def _add_serve(commands: Commands) -> None:
    parser = command(
        commands,
        "serve",
        _serve,
        "Serve attestation and key release over HTTP, on loopback only.",
        "GET /status /healthz /readyz; POST /attest/raw /attest/combined /attest/maa /key/release\n"
        "Prints one line when it is ready; SIGTERM ends it after open requests.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="0 for any free one (default: %(default)s)")
    parser.add_argument("--socket", type=Path, help="listen on a Unix socket (mode 0600) instead")
    parser.add_argument("--client-id", default="", help="of the managed identity, where there are several")
    add_snp(parser)


def _serve(arguments: argparse.Namespace) -> None:
    from sidecar.app import App, WrappingKeys, refuse
    from sidecar.asgi import asgi_app
    from sidecar.client import open_guest
    from sidecar.server import bind_loopback, bind_unix, serve_asgi
    from sidecar.services import open_services

    async def run() -> None:
        if arguments.socket is not None:
            listener, address = bind_unix(arguments.socket), f"unix:{arguments.socket}"
        else:
            listener = bind_loopback(arguments.host, arguments.port)
            host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
            address = f"http://{host}:{listener.getsockname()[1]}"
        stop = trio.Event()
        async with (
            open_services(os.environ, client_id=arguments.client_id) as services,
            trio.open_nursery() as background,
        ):
            background.start_soon(_stop_on_signal, stop)
            guest = await open_guest(services.http, os.environ, snp=arguments.snp)
            app = App(guest, services, WrappingKeys())
            background.start_soon(app.keys.keep_making)
            await app.check_ready()
            serve = partial(serve_asgi, asgi_app(app, refuse=refuse), sockets=[listener], shutdown=stop)
            async with trio.open_nursery() as serving:
                await serving.start(serve)
                print(f"sidecar: ready {address}", flush=True)
            background.cancel_scope.cancel()

    trio.run(run)


async def _stop_on_signal(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()


# -- attest, release ------------------------------------------------------------------------------


def _add_attest(commands: Commands) -> None:
    parser = command(commands, "attest", _attest, "Attest this machine and print the token's claims.")
    parser.add_argument(
        "--maa", required=True, metavar="HOST", help="attestation authority, without https://"
    )
    parser.add_argument("--runtime-data", type=Path, metavar="FILE", help="JSON the report commits to")
    parser.add_argument("--token", action="store_true", help="print the token itself instead")
    add_snp(parser)


def _attest(arguments: argparse.Namespace) -> None:
    from sidecar.client import open_guest
    from sidecar.release import AttestationToken, attest
    from sidecar.services import open_services

    runtime_data = read_file(arguments.runtime_data) if arguments.runtime_data else b"{}"

    async def run() -> AttestationToken:
        async with open_services(os.environ) as services:
            authority = services.authority(arguments.maa)
            guest = await open_guest(services.http, os.environ, snp=arguments.snp)
            return await attest(guest, authority, runtime_data)

    token = trio.run(run)
    print(token.text if arguments.token else json.dumps(token.claims, indent=1))


def _add_release(commands: Commands) -> None:
    parser = command(
        commands,
        "release",
        _release,
        "Attest this machine and release a key.",
        "Says which key was released; the key itself is written only to --out.",
    )
    parser.add_argument(
        "--maa", required=True, metavar="HOST", help="attestation authority, without https://"
    )
    parser.add_argument("--akv", required=True, metavar="HOST", help="vault or managed HSM, without https://")
    parser.add_argument("--kid", required=True, help="key name, or name/version")
    parser.add_argument("--client-id", default="", help="of the managed identity, where there are several")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the JWK, secret, mode 0600; - prints it"
    )
    add_snp(parser)


def _release(arguments: argparse.Namespace) -> None:
    from sidecar.client import ReleaseSettings, release
    from sidecar.strictjson import dump_json

    settings = ReleaseSettings(
        arguments.maa, arguments.akv, arguments.kid, snp=arguments.snp, client_id=arguments.client_id
    )
    released = trio.run(release, settings, os.environ)
    summary = {"kid": released.kid, "kty": released.kty, "key_ops": list(released.key_ops)}
    if arguments.out is None:
        print(json.dumps(summary, indent=1))
    elif str(arguments.out) == "-":
        print(dump_json(released.jwk()).decode())
    else:
        write_secret(arguments.out, dump_json(released.jwk()))
        print(json.dumps(summary | {"written": str(arguments.out)}, indent=1))


# -- policy, local --------------------------------------------------------------------------------


def _add_policy(commands: Commands) -> None:
    parser = commands.add_parser(
        "policy", help="Work with security policies.", description="Security policies."
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    digest = command(
        actions,
        "digest",
        _policy_digest,
        "Print the SHA-256 of a security policy: HOST_DATA of a guest that runs under it.",
        "Takes the policy's text or its base64; without FILE the policy this machine runs under.",
    )
    digest.add_argument("file", type=Path, nargs="?", help="- for standard input")
    cli_policy_layers.add_commands(actions)


def _policy_digest(arguments: argparse.Namespace) -> None:
    from sidecar.securitypolicy import policy_digest
    from sidecar.uvm import read_uvm

    if arguments.file is not None:
        print(policy_digest(read_file(arguments.file)).hex())
        return
    uvm = read_uvm()
    if uvm.security_policy is None:
        raise UsageError("no file given, and this machine runs under no security policy")
    print(uvm.host_data.hex())


def _add_local(commands: Commands) -> None:
    from sidecar.local.options import add_arguments

    parser = command(
        commands, "local", _local, "Serve the cloud in a box: local stand-ins that verify for real."
    )
    add_arguments(parser)


def _local(arguments: argparse.Namespace) -> None:
    from sidecar.local.cloud import serve_local
    from sidecar.local.options import settings_of
    from sidecar.snp.software import default_directory

    if arguments.log_level == "warning":
        logging.getLogger("sidecar.local").setLevel(logging.INFO)
    settings = settings_of(arguments, os.environ, default_directory(os.environ))

    async def run() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, stop)
            await nursery.start(serve_local, settings)
            await stop.wait()
            nursery.cancel_scope.cancel()

    trio.run(run)


if __name__ == "__main__":
    main()
