"""`sidecar serve`, and `skr`: the same under the predecessor's flags and variables.

Kind: entry
"""

from __future__ import annotations

import argparse
import base64
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import trio

from sidecar.arguments import (
    Commands,
    ShowVersion,
    add_identity,
    add_snp,
    command,
    identity_of,
    read_file,
    stop_on_signal,
)
from sidecar.errors import UsageError
from sidecar.running import run

if TYPE_CHECKING:
    from sidecar.config import SidecarSettings
    from sidecar.serving import ServeOptions

# In the predecessor's spelling.
SETTINGS_VARIABLE, PORT_VARIABLE = "SkrSideCarArgs", "Port"
LEVEL_VARIABLE, FILE_VARIABLE, SERVER_VARIABLE = "LogLevel", "LogFile", "ServerType"
_OUTDATED = "allowTestingMismatchedTCB"
_TEACHES = """\
HTTP: GET /status /readyz /healthz /metrics /openapi.json; POST /attest/raw /attest/combined /attest/maa
/key/release. Listens on 127.0.0.1 and ::1, or on a Unix socket (mode 0600; 0666 when `callers` are listed),
and nowhere else.
gRPC: the key provider that decrypts image layers, with reflection.

Settings (JSON or its base64, also from the variable SkrSideCarArgs), all optional:
  {"certcache": {"endpoint_type": "AMD|AzCache|LocalTHIM", "endpoint": HOST},
   "identity": {"client_id"|"object_id"|"resource_id": ID, "kind": "auto|managed|workload|cli|environment"},
   "maaconfig": {"user_agent": TEXT},
   "allow": {"vaults": [HOST], "authorities": [HOST], "keys": [NAME|NAME/VERSION|URL],
             "callers": [{"uid": N, "gid": N}]},
   "wrapping_bits": 2048, "token_reuse_seconds": 3600}
Put `allow` into what your security policy measures: then nobody outside can widen it. Callers are known on
the Unix socket only; with `callers` set, nothing is attested or released over TCP. With `keys` or `callers`
set, no report is made over a wrapping key of a caller's own.

Prints one line when it is ready; SIGTERM ends it after open requests."""
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}


def add_commands(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands, "serve", _serve, "Serve attestation and key release, on this machine only.", _TEACHES
    )
    parser.add_argument("--host", help="one loopback address (default: 127.0.0.1 and ::1)")
    parser.add_argument("--port", type=int, help="of HTTP; 0 for any free one (default: 8080)")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="HTTP on a Unix socket; no TCP then")
    parser.add_argument("--grpc-port", type=int, metavar="PORT", help="also serve gRPC there")
    parser.add_argument("--grpc-socket", type=Path, metavar="PATH", help="also serve gRPC on a Unix socket")
    parser.add_argument(
        "--key-directory", type=Path, metavar="DIR", help="where gRPC's WrapKey finds public keys"
    )
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings, in place of SkrSideCarArgs")
    add_identity(parser)
    parser.add_argument("--fresh", action="store_true", help="never use an attestation token twice")
    parser.add_argument("--check", action="store_true", help="read the settings, say what they mean, and end")
    add_snp(parser)


def _serve(arguments: argparse.Namespace) -> None:
    from sidecar.config import ANY_IDENTITY, parse_settings
    from sidecar.serving import ServeOptions

    text = os.environ.get(SETTINGS_VARIABLE, "")
    if arguments.settings is not None:
        text = read_file(arguments.settings).decode("utf-8", "replace")
    settings = parse_settings(text)
    if identity_of(arguments) != ANY_IDENTITY:
        settings = replace(settings, identity=identity_of(arguments))
    if arguments.fresh:
        settings = replace(settings, reuse_seconds=0)
    tcp = arguments.socket is None or arguments.port is not None
    options = ServeOptions(
        host=arguments.host,
        port=(8080 if arguments.port is None else arguments.port) if tcp else None,
        grpc_port=arguments.grpc_port,
        unix=arguments.socket,
        grpc_unix=arguments.grpc_socket,
        snp=arguments.snp,
        key_directory=arguments.key_directory,
    )
    if arguments.check:
        _describe(options, settings)
    else:
        serve_until_signal(options, settings)


def serve_until_signal(options: ServeOptions, settings: SidecarSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    from sidecar.serving import serve

    def ready(addresses: list[str]) -> None:
        print("sidecar: ready " + " ".join(addresses), flush=True)

    async def run() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, stop)
            await serve(options, settings, os.environ, shutdown=stop, ready=ready)
            nursery.cancel_scope.cancel()

    trio.run(run)


def _describe(options: ServeOptions, settings: SidecarSettings) -> None:
    """What the settings mean, for people."""
    allowed = settings.allowed

    def listed(items: object) -> str:
        if items is None:
            return "any"
        found = sorted(str(item) for item in items) if isinstance(items, tuple | frozenset) else []
        return ", ".join(found) or "none"

    azure = "Azure's own, or those of SIDECAR_ALLOWED_HOSTS"
    rows = {
        "identity": settings.identity.kind,
        "certificates": settings.endpoint.base if settings.endpoint else "the host's, then AMD's",
        "vaults": azure if allowed.vaults is None else listed(allowed.vaults),
        "authorities": azure if allowed.authorities is None else listed(allowed.authorities),
        "keys": listed(allowed.keys),
        "callers": "anyone who reaches the port or socket"
        if allowed.callers is None
        else f"{listed(allowed.callers)}, over the Unix socket only",
        "attestation token": f"used again for up to {settings.reuse_seconds} s"
        if settings.reuse_seconds
        else "new for each release",
        "wrapping key": f"RSA {settings.wrapping_bits}",
        "HTTP": ", ".join(
            text for port, path in ((options.port, options.unix),) for text in _places(port, path)
        ),
        "gRPC": ", ".join(_places(options.grpc_port, options.grpc_unix)) or "off",
    }
    for name, value in rows.items():
        print(f"{name + ':':20}{value}")


def _places(port: int | None, path: Path | None) -> list[str]:
    found = [] if port is None else [f"port {port or 'any free'} on loopback"]
    return found + ([] if path is None else [f"socket {path}"])


# -- skr ------------------------------------------------------------------------------------------


def skr(argv: list[str] | None = None) -> NoReturn:
    """The predecessor's command: its flags in Go's spelling, and the variables of its start script."""
    arguments = _skr_parser().parse_args(_with_go_booleans(sys.argv[1:] if argv is None else argv))
    level = _LEVELS.get(arguments.loglevel.lower())
    if level is None:
        print(
            f"skr: error: loglevel {arguments.loglevel!r}, wanted one of {', '.join(_LEVELS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    file = Path(arguments.logfile) if arguments.logfile else None
    sys.exit(run(lambda: _skr(arguments), level=level, file=file))


def _skr_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skr",
        allow_abbrev=False,
        description="Attestation and key release under the predecessor's flags. `sidecar serve` has more.\n\n"
        "Variables: SkrSideCarArgs, Port, LogFile, LogLevel, ServerType; a flag wins over its variable.\n"
        "-name value, -name=value and two dashes are all accepted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=ShowVersion)
    environ = os.environ

    def flag(name: str, default: str, words: str) -> None:
        parser.add_argument(f"-{name}", f"--{name}", default=default, help=words)

    flag("base64", environ.get(SETTINGS_VARIABLE, ""), "settings, base64 JSON")
    flag(
        "loglevel",
        environ.get(LEVEL_VARIABLE) or "warning",
        "trace, debug, info, warning, error, fatal, panic",
    )
    flag("logfile", environ.get(FILE_VARIABLE, ""), "log file, appended to (default: standard error)")
    flag("port", environ.get(PORT_VARIABLE, ""), "port on localhost (default: 8080)")
    flag("server_type", environ.get(SERVER_VARIABLE) or "http", "http or grpc")
    flag("infile", "", "wrap this file's content, and end")
    flag("keypath", "", "wrapping key: KEYPATH-info.json describes it")
    flag("outfile", "", "where the wrapped data goes")
    parser.add_argument(
        f"-{_OUTDATED}",
        f"--{_OUTDATED}",
        type=_go_boolean,
        default=False,
        help="for tests: take the host's certificates as outdated",
    )
    parser.add_argument("settings", nargs="?", default="", help="settings, as the start script takes them")
    parser.add_argument("listen", nargs="?", default="", help="port, as the start script takes it")
    return parser


def _with_go_booleans(argv: list[str]) -> list[str]:
    """Go's boolean flags take a value only after "=": a bare one is true, whatever follows it."""
    bare = (f"-{_OUTDATED}", f"--{_OUTDATED}")
    return [f"{word}=true" if word in bare else word for word in argv]


def _go_boolean(text: str) -> bool:
    """The words of Go's strconv.ParseBool."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _skr(arguments: argparse.Namespace) -> None:
    from sidecar.config import parse_settings
    from sidecar.serving import ServeOptions

    if arguments.infile:
        _wrap(arguments)
        return
    settings = parse_settings(arguments.base64 or arguments.settings)
    text = arguments.port or arguments.listen or "8080"
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"port {text[:16]!r}: wanted a number")
    grpc = arguments.server_type == "grpc"
    options = ServeOptions(
        port=None if grpc else int(text),
        grpc_port=int(text) if grpc else None,
        outdated=arguments.allowTestingMismatchedTCB,
    )
    serve_until_signal(options, settings)


def _wrap(arguments: argparse.Namespace) -> None:
    """Wrap a file to a public key, as a packet that the key provider unwraps."""
    from sidecar.keyinfo import read_key_info
    from sidecar.ocicrypt import wrap_options

    if not arguments.keypath or not arguments.outfile:
        raise UsageError("-infile: wants -keypath and -outfile too")
    packet = wrap_options(read_file(Path(arguments.infile)), read_key_info(arguments.keypath))
    try:
        Path(arguments.outfile).write_bytes(base64.b64encode(packet.to_bytes()))
    except OSError as exc:
        raise UsageError(f"file {arguments.outfile}: {exc.strerror}") from exc
    print(f"skr: wrapped to {packet.kid}: {arguments.outfile}", file=sys.stderr)
