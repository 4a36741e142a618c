"""The HTTP server: the only user of hypercorn.

Strategy: sockets are bound here, so a caller knows its port before the application exists and a Unix socket
gets its mode before anyone can connect; hypercorn serves them on trio. Life span events are answered here,
applications need not know them.

Connections of a Unix socket are accepted here rather than by hypercorn, which has no place for who is asking:
the application finds the peer's credentials in the scope.

Rules: TCP only on loopback addresses; nothing is logged but errors; `task_status` reports when connections
are accepted; cancelling the task stops at once, setting `shutdown` lets open requests finish first.

Kind: adapter
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import ssl
import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, Framework
from hypercorn.utils import wrap_app

from sidecar.asgi import PEER, AsgiApp, Receive, Scope, Send
from sidecar.errors import UsageError
from sidecar.web import Peer

GRACE = 10.0  # seconds for open requests at the end
READ_TIMEOUT = 30  # seconds a connection may stay silent
BACKLOG = 512
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_PORT_TRIES = 16
_UCRED = struct.Struct("=iII")  # Spec: unix(7), struct ucred: pid, uid, gid

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


def bind_both(port: int = 0) -> list[socket.socket]:
    """Bound TCP sockets on 127.0.0.1 and, where the machine has IPv6, on ::1, with the same port.

    Raises:
        UsageError: one of them cannot be bound.
    """
    for _ in range(_PORT_TRIES):
        first = bind_loopback("127.0.0.1", port)
        try:
            return [first, bind_loopback("::1", first.getsockname()[1])]
        except UsageError as exc:
            number = exc.__cause__.errno if isinstance(exc.__cause__, OSError) else None
            if number in _NO_IPV6:
                return [first]
            first.close()
            if port or number != errno.EADDRINUSE:
                raise
        except OSError:  # no IPv6 in this kernel at all
            return [first]
    raise UsageError(f"no port is free on both 127.0.0.1 and ::1 ({_PORT_TRIES} tried)")


def bind_unix(path: Path, *, mode: int = 0o600) -> socket.socket:
    """A bound Unix socket with its mode set before it listens; a stale socket in its place is replaced.

    Raises:
        UsageError: a socket that is served, or something else, is there, or it cannot be bound.
    """
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            if _is_served(path):
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            path.unlink()
        found.bind(os.fspath(path))
        path.chmod(mode)
    except OSError as exc:
        found.close()
        raise UsageError(f"socket {path}: {exc.strerror or exc}") from exc
    return found


def _is_served(path: Path) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # A full backlog gives EAGAIN: served, and busy.
        return probe.connect_ex(os.fspath(path)) in (0, errno.EAGAIN)


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
    config = _settings(tls)
    local = [one for one in bound if one.family == socket.AF_UNIX]
    config.bind = [f"fd://{one.detach()}" for one in bound if one.family != socket.AF_UNIX]
    async with trio.open_nursery() as nursery:
        addresses: list[str] = []
        if config.bind:
            serve = partial(
                hypercorn.trio.serve,
                _with_lifespan(app),
                config,
                mode="asgi",
                shutdown_trigger=None if shutdown is None else shutdown.wait,
            )
            addresses += await nursery.start(serve)
        for one in local:
            addresses.append(await nursery.start(_serve_unix, app, one, config, shutdown))
        task_status.started(addresses)


def _settings(tls: ssl.SSLContext | None) -> _ServerConfig:
    config = _ServerConfig()
    config.tls = tls
    config.errorlog = _log
    config.backlog = BACKLOG
    config.include_server_header = False
    config.alpn_protocols = ["http/1.1"]
    config.read_timeout = READ_TIMEOUT
    config.graceful_timeout = GRACE
    return config


async def _serve_unix(
    app: AsgiApp,
    bound: socket.socket,
    config: _ServerConfig,
    shutdown: trio.Event | None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """`serve_asgi` for one Unix socket."""
    bound.listen(BACKLOG)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    context = WorkerContext(None)

    async def connection(stream: trio.SocketStream) -> None:
        try:
            peer = _peer(stream.socket)
        except OSError as exc:
            # Nobody is served whom we do not know.
            _log.info("a connection without credentials: %s", exc)
            await stream.aclose()
            return
        framework = wrap_app(_with_peer(app, peer), 0, "asgi")
        # The listener hands out plain streams only; the annotation there is of TLS.
        await TCPServer(framework, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, connection, [listener], handler_nursery=connections)
            )
            task_status.started(f"unix:{os.fsdecode(bound.getsockname())}")
            await (trio.Event() if shutdown is None else shutdown).wait()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + GRACE


def _peer(connected: trio.socket.SocketType) -> Peer:
    """Who connected, as the kernel noted it at that time."""
    return Peer(*_UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def _with_peer(app: AsgiApp, peer: Peer) -> Framework:
    async def whole(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"][PEER] = peer
        await _http_only(app, scope, receive, send)

    return whole


def _with_lifespan(app: AsgiApp) -> Framework:
    async def whole(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await _http_only(app, scope, receive, send)

    return whole


async def _http_only(app: AsgiApp, scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await app(scope, receive, send)
    else:
        # A WebSocket: closing before accepting it makes the server answer 403.
        await receive()
        await send({"type": "websocket.close"})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


__all__ = ["Scope", "bind_both", "bind_loopback", "bind_unix", "serve_asgi", "server_tls"]
