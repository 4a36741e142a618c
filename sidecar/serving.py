"""The sidecar as a server: sockets, guest, services, HTTP and gRPC, from start to a clean end.

Order: sockets are bound first, so that a port in use is told at once; then guest and services are opened;
connections are accepted once a first report was taken, or has failed (`/status` says so and goes on trying).
At the end open requests finish, then everything closes in reverse.

Kind: composition
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from sidecar.app import App, refuse
from sidecar.asgi import AsgiApp, asgi_app
from sidecar.attesting import Attester, WrappingKeys
from sidecar.client import open_guest
from sidecar.config import SidecarSettings
from sidecar.errors import UsageError
from sidecar.keyprovider import key_provider
from sidecar.server import bind_both, bind_loopback, bind_unix, serve_asgi
from sidecar.services import open_services

MAX_BODY = 256 << 10  # bytes: 64 KiB of runtime data in base64, and room
FIRST_CHECK_SECONDS = 10.0  # after which `/status` says "starting" instead of nobody answering
IDENTITY_PATIENCE = 30.0  # seconds the first token may be waited for


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where to listen.

    Attributes:
        host: one loopback address; both of them when None.
        port: HTTP over TCP; None for none, 0 for any free one.
        grpc_port: gRPC over TCP, likewise.
        unix: HTTP on a Unix socket.
        grpc_unix: gRPC on a Unix socket.
        snp: report source by name.
        key_directory: where gRPC's WrapKey finds public keys.
        outdated: take the host's certificates as outdated, which they are after a firmware update.
    """

    host: str | None = None
    port: int | None = 8080
    grpc_port: int | None = None
    unix: Path | None = None
    grpc_unix: Path | None = None
    snp: str | None = None
    key_directory: Path | None = None
    outdated: bool = False

    def __post_init__(self) -> None:
        for port in (self.port, self.grpc_port):
            if port is not None and not 0 <= port <= 65535:
                raise UsageError(f"port {port}: wanted 0 to 65535")
        if self.port is not None and self.port == self.grpc_port != 0:
            raise UsageError(f"port {self.port}: wanted one for HTTP and another one for gRPC")
        if not any(x is not None for x in (self.port, self.grpc_port, self.unix, self.grpc_unix)):
            raise UsageError("nowhere to listen: wanted a port or a socket")


async def serve(
    options: ServeOptions,
    settings: SidecarSettings,
    environ: Mapping[str, str],
    *,
    shutdown: trio.Event,
    ready: Callable[[list[str]], None],
) -> None:
    """Serve until `shutdown` is set.

    Args:
        options: where to listen.
        settings: what is allowed, and who asks.
        environ: see `open_services` and `open_guest`.
        ready: told the addresses once connections are accepted.

    Raises:
        UsageError: an address cannot be used, or settings are wrong.
        ReportUnavailable: this machine has no source of reports.
    """
    # Where the settings list callers, they decide, and not the file's mode.
    mode = 0o600 if settings.allowed.callers is None else 0o666
    with ExitStack() as stack:
        http = _bind(stack, "http", options.host, options.port, options.unix, mode)
        grpc = _bind(stack, "grpc", options.host, options.grpc_port, options.grpc_unix, mode)
        async with open_services(environ, settings, patience=IDENTITY_PATIENCE) as services:
            guest = await open_guest(
                services.http,
                environ,
                snp=options.snp,
                endpoint=settings.endpoint,
                outdated=options.outdated,
            )
            keys = WrappingKeys(settings.wrapping_bits)
            attester = Attester(guest, keys, reuse_seconds=settings.reuse_seconds)
            app = App(guest, services, attester, keys, settings.allowed)
            provider = key_provider(app, key_directory=options.key_directory)
            with trio.move_on_after(FIRST_CHECK_SECONDS):
                await app.check_ready()
            async with trio.open_nursery() as background:
                background.start_soon(keys.keep_making)
                background.start_soon(app.keep_ready)
                apps = [(asgi_app(app, max_body=MAX_BODY, refuse=refuse), http), (provider, grpc)]
                await _serve_all(apps, shutdown, ready)
                background.cancel_scope.cancel()


async def _serve_all(
    apps: list[tuple[AsgiApp, _Bound]], shutdown: trio.Event, ready: Callable[[list[str]], None]
) -> None:
    async with trio.open_nursery() as serving:
        for app, bound in apps:
            if bound.sockets:
                await serving.start(partial(serve_asgi, app, sockets=bound.sockets, shutdown=shutdown))
        ready([name for _, bound in apps for name in bound.names])


@dataclass(frozen=True, slots=True)
class _Bound:
    """Bound sockets of one protocol, and the addresses to tell."""

    sockets: list[socket.socket]
    names: list[str]


def _bind(
    stack: ExitStack, scheme: str, host: str | None, port: int | None, path: Path | None, mode: int
) -> _Bound:
    """Bind what is asked for; `stack` closes it, and removes the file of a Unix socket."""
    bound = _Bound([], [])
    if port is not None:
        bound.sockets.extend(bind_both(port) if host is None else [bind_loopback(host, port)])
        # The other loopback address has the same port; one line is enough.
        address, chosen = bound.sockets[0].getsockname()[:2]
        bound.names.append(f"{scheme}://{f'[{address}]' if ':' in address else address}:{chosen}")
    if path is not None:
        bound.sockets.append(bind_unix(path, mode=mode))
        stack.callback(path.unlink, missing_ok=True)
        bound.names.append(f"{scheme}+unix:{path}")
    for one in bound.sockets:
        stack.callback(one.close)
    return bound
