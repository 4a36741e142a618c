"""The `sidecar` command: arguments, messages and exit codes.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import trio

from sidecar import cli_keys, cli_policy, cli_report, cli_serve
from sidecar.arguments import (
    Commands,
    ShowVersion,
    add_identity,
    add_snp,
    command,
    identity_of,
    read_file,
    stop_on_signal,
    write_secret,
)
from sidecar.errors import ExitCode, UsageError
from sidecar.running import run

_EPILOG = "exit codes:\n" + "\n".join(f"  {code.value:3}  {code.name.lower()}" for code in ExitCode)


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command and exit with a documented code; no traceback reaches a user."""
    arguments = _parser().parse_args(argv)
    sys.exit(run(lambda: arguments.run(arguments), level=logging.getLevelName(arguments.log_level.upper())))


def securitypolicydigest() -> NoReturn:
    """The predecessor's tool of that name: `-p BASE64` or `-f FILE`, `-v`."""
    main(["policy", "digest", *sys.argv[1:]])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sidecar",
        description="SEV-SNP attestation and secure key release for confidential containers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=ShowVersion)
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="warning")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    cli_serve.add_commands(commands)
    cli_report.add_commands(commands)
    _add_attest(commands)
    _add_release(commands)
    cli_policy.add_commands(commands)
    _add_local(commands)
    cli_keys.add_commands(commands)
    return parser


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
    add_identity(parser)
    parser.add_argument(
        "--access-token-file",
        type=Path,
        metavar="FILE",
        help="your own access token for the vault; - for stdin",
    )
    parser.add_argument(
        "--wrapping-bits", type=int, default=2048, metavar="N", help="RSA wrapping key (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the JWK, secret, mode 0600; - prints it"
    )
    add_snp(parser)


def _release(arguments: argparse.Namespace) -> None:
    from sidecar.client import ReleaseSettings, release
    from sidecar.strictjson import dump_json

    token = arguments.access_token_file
    settings = ReleaseSettings(
        arguments.maa,
        arguments.akv,
        arguments.kid,
        snp=arguments.snp,
        identity=identity_of(arguments),
        access_token=_token(token) if token else "",
        wrapping_bits=arguments.wrapping_bits,
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


def _token(path: Path) -> str:
    """An access token from a file; an empty one must not mean none."""
    text = read_file(path).decode("ascii", "replace").strip()
    if not text:
        raise UsageError("access token file: is empty, wanted one token")
    return text


# -- local ----------------------------------------------------------------------------------------


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
            nursery.start_soon(stop_on_signal, stop)
            await nursery.start(serve_local, settings)
            await stop.wait()
            nursery.cancel_scope.cancel()

    trio.run(run)


if __name__ == "__main__":
    main()
