"""The HTTP server: the only user of hypercorn.

Strategy: sockets are bound here, so a caller knows its port before the application exists and a Unix socket
gets its mode before anyone can connect; hypercorn serves them on trio. Life span events are answered here,
applications need not know them.

Rules: TCP only on loopback addresses; nothing is logged but errors; `task_status` reports when connections
are accepted; cancelling the task stops at once, setting `shutdown` lets open requests finish first.

Kind: adapter
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from hypercorn.typing import Framework

from sidecar.asgi import AsgiApp, Receive, Scope, Send
from sidecar.errors import UsageError

GRACE = 10.0  # seconds for open requests at the end
READ_TIMEOUT = 30  # seconds a connection may stay silent
BACKLOG = 512

_log = logging.getLogger("sidecar.server")


class _ServerConfig(Config):
    """hypercorn's settings with a TLS context of ours instead of file names."""

    tls: ssl.SSLContext | None = None

    @property
    def ssl_enabled(self) -> bool:
        return self.tls is not None

    def create_ssl_context(self) -> ssl.SSLContext | None:
        return self.tls


def bind_loopback(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A bound TCP socket on a loopback address.

    Args:
        host: `127.0.0.1`, `::1`, another loopback address, or `localhost`.
        port: 0 for any free one.

    Raises:
        UsageError: the address is not a loopback one, or cannot be bound.
    """
    address = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise UsageError(f"listen address {host!r}: not an address, wanted a loopback one") from None
    if not parsed.is_loopback:
        raise UsageError(f"listen address {host}: not a loopback address", hint="use 127.0.0.1 or ::1")
    found = socket.socket(socket.AF_INET6 if parsed.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.bind((address, port))
    except OSError as exc:
        found.close()
        raise UsageError(
            f"listen address {host}:{port}: {exc.strerror or exc}", hint="choose another port, or 0 for any"
        ) from exc
    return found


def bind_unix(path: Path, *, mode: int = 0o600) -> socket.socket:
    """A bound Unix socket with its mode set before it listens; a stale socket in its place is replaced.

    Raises:
        UsageError: something other than a socket is there, or it cannot be bound.
    """
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink()
        found.bind(os.fspath(path))
        path.chmod(mode)
    except OSError as exc:
        found.close()
        raise UsageError(f"socket {path}: {exc.strerror or exc}") from exc
    return found


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """The TLS settings of a server: TLS 1.2 or newer, HTTP/1.1 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    return context


async def serve_asgi(
    app: AsgiApp,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    sockets: Sequence[socket.socket] = (),
    tls: ssl.SSLContext | None = None,
    shutdown: trio.Event | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application until cancelled, or until `shutdown` is set and open requests are done.

    Args:
        app: ASGI application; it sees HTTP requests only.
        host, port: where to listen when no sockets are given.
        sockets: bound sockets, which this call takes over and closes.
        tls: from `server_tls`, or None for plain HTTP.
        task_status: told the addresses once connections are accepted.
    """
    bound = list(sockets) or [bind_loopback(host, port)]
    config = _ServerConfig()
    config.tls = tls
    config.bind = [f"fd://{one.detach()}" for one in bound]
    config.errorlog = _log
    config.backlog = BACKLOG
    config.include_server_header = False
    config.alpn_protocols = ["http/1.1"]
    config.read_timeout = READ_TIMEOUT
    config.graceful_timeout = GRACE
    await hypercorn.trio.serve(
        _with_lifespan(app),
        config,
        mode="asgi",
        shutdown_trigger=None if shutdown is None else shutdown.wait,
        task_status=task_status,
    )


def _with_lifespan(app: AsgiApp) -> Framework:
    async def whole(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await app(scope, receive, send)
        else:
            # A WebSocket: closing before accepting it makes the server answer 403.
            await receive()
            await send({"type": "websocket.close"})

    return whole


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


__all__ = ["Scope", "bind_loopback", "bind_unix", "serve_asgi", "server_tls"]
