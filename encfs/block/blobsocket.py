"""One connection to a server, plain or TLS, that receives straight into the caller's memory.

Strategy: a socket of the standard library that never blocks, and trio to wait for it. OpenSSL then reads from
the socket itself and decrypts into that memory, where trio's own stream keeps what it received in a buffer
between the two and hands out pieces of 16 KiB.

Rules: one task uses it at a time. Whoever is cancelled, or sees an error, drops it. A TLS connection that
ends without saying so is an error, because somebody else may have cut it.

Kind: adapter
"""

from __future__ import annotations

import select
import socket
import ssl

import trio

from encfs.block.device import Buffer


class BlobSocket:
    """A connected socket; make it with `connect`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._fd = sock.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._broken: OSError | None = None

    async def send_all(self, data: Buffer) -> None:
        """Send all of it.

        Raises:
            OSError: the connection broke.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except ssl.SSLWantReadError:
                await trio.lowlevel.wait_readable(self._fd)
            except (BlockingIOError, ssl.SSLWantWriteError):
                await trio.lowlevel.wait_writable(self._fd)

    async def receive_into(self, view: memoryview) -> int:
        """Wait for data, take what is there of it; returns how many bytes, 0 at the end of the connection.

        Raises:
            OSError: the connection broke.
        """
        if self._broken is not None:
            raise self._broken
        done = 0
        while done < len(view):
            try:
                count = self._socket.recv_into(view[done:])
            except (BlockingIOError, ssl.SSLWantReadError):
                if done:
                    return done
                await trio.lowlevel.wait_readable(self._fd)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self._fd)
            except OSError as exc:
                if not done:
                    raise
                self._broken = exc  # what came before it counts
                return done
            else:
                if not count:
                    return done
                done += count
        await trio.lowlevel.checkpoint()  # there may be no end of data to take without waiting
        return done

    def is_silent(self) -> bool:
        """Whether nothing waits to be read: what comes without a question is an end, or not for us."""
        unread = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return not unread and not self._poll.poll(0)

    def drop(self) -> None:
        """Close without a word and without waiting."""
        self._socket.close()


async def connect(host: str, port: int, tls: ssl.SSLContext | None) -> BlobSocket:
    """Connect, and shake hands.

    Args:
        host: name or address; with TLS, what the certificate must be for.
        port: of TCP.
        tls: what the certificate must lead to; None for a plain connection.

    Raises:
        OSError: nobody there, or, as `ssl.SSLError`, no TLS with whoever is.
    """
    stream = await trio.open_tcp_stream(host, port)
    plain = socket.socket(fileno=stream.socket.detach())
    try:
        plain.setblocking(False)
        if tls is None:
            return BlobSocket(plain)
        sock = tls.wrap_socket(
            plain, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
    except BaseException:
        plain.close()
        raise
    try:
        await _shake_hands(sock)
        return BlobSocket(sock)
    except BaseException:
        sock.close()
        raise


async def _shake_hands(sock: ssl.SSLSocket) -> None:
    while True:
        try:
            sock.do_handshake()
            return
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)
