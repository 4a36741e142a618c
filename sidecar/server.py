"""The HTTP server: the only user of hypercorn.

Strategy: sockets are bound here, so a caller knows its port before the application exists and a Unix socket
gets its mode before anyone can connect. Connections are accepted here and each is handed to hypercorn's trio
server, for two reasons: the application finds the credentials of a Unix socket's peer in the scope, and what
a client makes fail in there ends its own connection and not the server.

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

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, Framework
from hypercorn.utils import wrap_app

from sidecar.asgi import PEER, AsgiApp
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
        tls: from `server_tls`, or None for plain HTTP; Unix sockets are always plain.
        task_status: told the addresses once connections are accepted.
    """
    bound = list(sockets) or [bind_loopback(host, port)]
    connections = _Connections(app, _settings(tls))
    listeners = [_listener(one, tls) for one in bound]
    async with trio.open_nursery() as serving:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(
                partial(trio.serve_listeners, connections.serve, listeners, handler_nursery=serving)
            )
            task_status.started([_address(one, tls) for one in bound])
            await (trio.Event() if shutdown is None else shutdown).wait()
            accepting.cancel_scope.cancel()
        await connections.finish()
        serving.cancel_scope.deadline = trio.current_time() + GRACE


def _settings(tls: ssl.SSLContext | None) -> _ServerConfig:
    config = _ServerConfig()
    config.tls = tls
    config.errorlog = _log
    config.include_server_header = False
    config.alpn_protocols = ["http/1.1"]
    config.read_timeout = READ_TIMEOUT
    config.graceful_timeout = GRACE
    return config


def _listener(
    bound: socket.socket, tls: ssl.SSLContext | None
) -> trio.SocketListener | trio.SSLListener[trio.SocketStream]:
    bound.listen(BACKLOG)
    plain = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    if tls is None or bound.family == socket.AF_UNIX:
        return plain
    return trio.SSLListener(plain, tls, https_compatible=True)


def _address(bound: socket.socket, tls: ssl.SSLContext | None) -> str:
    if bound.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(bound.getsockname())}"
    host, port = bound.getsockname()[:2]
    return f"{'http' if tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}"


class _Connections:
    """The connections of one server, each on its own: what breaks one touches no other."""

    def __init__(self, app: AsgiApp, config: _ServerConfig) -> None:
        self._app = app
        self._config = config
        self._context = WorkerContext(None)

    async def serve(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        """Serve one connection to its end."""
        try:
            peer = _peer(stream)
            framework = wrap_app(_with_peer(self._app, peer), 0, "asgi")
            # hypercorn serves plain streams as well; its annotation is of TLS only.
            await TCPServer(framework, self._config, self._context, ConnectionState({}), stream)  # type: ignore[arg-type]
        except Exception as exc:
            # A frame for a stream that was answered already, say, is a KeyError in there.
            _log.info("a connection ended by %s", type(exc).__name__)
            _log.debug("its cause", exc_info=True)
            await trio.aclose_forcefully(stream)

    async def finish(self) -> None:
        """Take no more requests: idle connections close, the others after their answer."""
        await self._context.terminated.set()


def _peer(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> Peer | None:
    """Who connected to a Unix socket, as the kernel noted it at that time; None for TCP.

    Raises:
        OSError: the kernel does not say, so nobody is served there.
    """
    if not isinstance(stream, trio.SocketStream) or stream.socket.family != socket.AF_UNIX:
        return None
    return Peer(*_UCRED.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def _with_peer(app: AsgiApp, peer: Peer | None) -> Framework:
    async def whole(scope: Any, receive: Any, send: Any) -> None:
        if peer is not None:
            scope["extensions"][PEER] = peer
        await _http_only(app, scope, receive, send)

    return whole


async def _http_only(app: AsgiApp, scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await app(scope, receive, send)
    else:
        # A WebSocket: closing before accepting it makes the server answer 403.
        await receive()
        await send({"type": "websocket.close"})


__all__ = ["bind_both", "bind_loopback", "bind_unix", "serve_asgi", "server_tls"]
