"""A proxy on loopback between a client and an HTTP/1.1 store that makes the store slow, wrong or absent.

One thread a connection, which parses heads and moves bodies with splice(2), so that it costs little even when
it injects nothing but latency. What it injects, and how often it did, is set and read from other threads.

    faultproxy.py HOST:PORT [--latency S]   prints `ready PORT`, ends when its standard input does
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["500", "503", "412", "reset", "lost", "cut", "late"]
_HEAD_LIMIT = 64 << 10
_PIPE = 1 << 20
_F_SETPIPE_SZ = 1031
_RST = struct.pack("ii", 1, 0)


@dataclass
class Rule:
    """What is injected into some requests.

    Attributes:
        kind: "500" and "503" (with Retry-After: 0) instead of an answer, "412" likewise; "reset" before the
            store sees the request; "lost": the store answers, the client gets a reset; "cut": half of the
            answer's body (of a request without one: half of its head), then the end; "late": the answer after
            a pause of `seconds`.
        method: of the requests meant; "" for any.
        share: probability for each of them.
        count: at most so often.
    """

    kind: Kind
    method: str = ""
    share: float = 1.0
    count: int = 1 << 30
    seconds: float = 0.0


class _Ended(Exception):
    """The connection is over."""


@dataclass
class _Head:
    """First line and headers, as received; names in lower case in `lines`."""

    raw: bytes
    first: str
    lines: dict[str, str]

    @property
    def length(self) -> int:
        return int(self.lines.get("content-length", "0"))

    @property
    def is_chunked(self) -> bool:
        return self.lines.get("transfer-encoding", "").lower() == "chunked"


class FaultProxy:
    """Listens on a port of its own until closed.

    Attributes:
        latency: seconds that every request waits before the store sees it.
        rules: what to inject; the first that fires is taken.
        injected: how often each kind was.
        requests: how many of each method came.
    """

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        self.latency = 0.0
        self.rules: list[Rule] = []
        self.injected: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._store = (host, port)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_down = False
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    # -- faults that last -------------------------------------------------------------------------

    def go_down(self) -> None:
        """Refuse everything, and reset what is under way."""
        with self._lock:
            self._is_down = True
            for sock in self._open:
                _reset(sock)

    def come_back(self) -> None:
        """Serve again."""
        self._is_down = False

    def stall(self) -> None:
        """Take every request and answer none, not even those under way."""
        self._flowing.clear()

    def flow(self) -> None:
        """Answer again, also what was held back."""
        self._flowing.set()

    def close(self) -> None:
        """End every connection and the listening."""
        self.go_down()
        self._flowing.set()
        self._listener.close()

    # -- connections ------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_down:
                self.injected["refused"] += 1
                _reset(client)
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, _Ended), contextlib.ExitStack() as stack:
            pipe = stack.enter_context(_pipe())
            stack.enter_context(self._tracked(client))
            store = stack.enter_context(self._tracked(socket.create_connection(self._store)))
            while True:
                self._pass_one(client, store, pipe)

    @contextlib.contextmanager
    def _tracked(self, sock: socket.socket) -> Iterator[socket.socket]:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(sock)
        try:
            yield sock
        finally:
            with self._lock:
                self._open.discard(sock)
                sock.close()

    def _pass_one(self, client: socket.socket, store: socket.socket, pipe: tuple[int, int]) -> None:
        request = _read_head(client)
        method = request.first.split(" ")[0]
        with self._lock:
            self.requests[method] += 1
            rule = self._choose(method)
        self._flowing.wait()
        if self.latency:
            time.sleep(self.latency)
        if rule is not None and rule.kind == "reset":
            _reset(client)
            raise _Ended
        if rule is not None and rule.kind in ("500", "503", "412"):
            _discard(client, request.length)
            client.sendall(_refusal(rule.kind))
            return
        store.sendall(request.raw)
        _move(client, store, request.length, pipe)
        answer = _read_head(store)
        self._flowing.wait()
        self._pass_answer(client, store, answer, method, rule, pipe)

    def _pass_answer(
        self,
        client: socket.socket,
        store: socket.socket,
        answer: _Head,
        method: str,
        rule: Rule | None,
        pipe: tuple[int, int],
    ) -> None:
        has_body = method != "HEAD" and answer.first.split(" ")[1] not in ("204", "304")
        if rule is not None and rule.kind == "lost":
            _reset(client)
            raise _Ended
        if rule is not None and rule.kind == "late":
            time.sleep(rule.seconds)
        if rule is not None and rule.kind == "cut":
            if has_body and answer.length > 1:
                client.sendall(answer.raw)
                _move(store, client, answer.length // 2, pipe)
            else:
                client.sendall(answer.raw[: len(answer.raw) // 2])
            raise _Ended
        client.sendall(answer.raw)
        if has_body and answer.is_chunked:
            _move_chunks(store, client, pipe)
        elif has_body:
            _move(store, client, answer.length, pipe)
        if answer.lines.get("connection", "").lower() == "close":
            raise _Ended

    def _choose(self, method: str) -> Rule | None:
        for rule in self.rules:
            if rule.method in ("", method) and rule.count and self._random.random() < rule.share:
                rule.count -= 1
                self.injected[rule.kind] += 1
                return rule
        return None


@contextlib.contextmanager
def fault_proxy(base: str, *, seed: int = 0) -> Iterator[tuple[FaultProxy, str]]:
    """A proxy in front of a store's address `http://host:port/path`; yields it and the address through it."""
    place, _, path = base.removeprefix("http://").partition("/")
    host, _, port = place.partition(":")
    proxy = FaultProxy(host, int(port), seed=seed)
    try:
        yield proxy, f"http://127.0.0.1:{proxy.port}/{path}"
    finally:
        proxy.close()


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        fcntl.fcntl(ends[1], _F_SETPIPE_SZ, _PIPE)
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _read_head(sock: socket.socket) -> _Head:
    """A head, and not a byte of the body behind it."""
    while True:
        seen = sock.recv(_HEAD_LIMIT, socket.MSG_PEEK)
        if not seen:
            raise _Ended
        end = seen.find(b"\r\n\r\n")
        if end >= 0:
            break
        if len(seen) == _HEAD_LIMIT:
            raise _Ended
        time.sleep(0.001)
    raw = sock.recv(end + 4)
    first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return _Head(raw, first, {name.lower(): value.strip() for name, _, value in pairs})


def _move(source: socket.socket, target: socket.socket, length: int, pipe: tuple[int, int]) -> None:
    while length:
        got = os.splice(source.fileno(), pipe[1], min(length, _PIPE), flags=os.SPLICE_F_MOVE)
        if not got:
            raise _Ended
        length -= got
        while got:
            more = os.SPLICE_F_MORE if length else 0
            got -= os.splice(pipe[0], target.fileno(), got, flags=os.SPLICE_F_MOVE | more)


def _move_chunks(source: socket.socket, target: socket.socket, pipe: tuple[int, int]) -> None:
    while True:
        line = b""
        while not line.endswith(b"\r\n"):
            line += source.recv(1) or _end()
        target.sendall(line)
        size = int(line.partition(b";")[0], 16)
        _move(source, target, size + 2, pipe)
        if not size:
            return


def _discard(sock: socket.socket, length: int) -> None:
    while length:
        length -= len(sock.recv(min(length, _PIPE)) or _end())


def _end() -> bytes:
    raise _Ended


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        sock.shutdown(socket.SHUT_RD)  # wakes the thread, whose close sends the reset


def _refusal(status: str) -> bytes:
    reason, code = {
        "500": ("Internal Server Error", "InternalError"),
        "503": ("Service Unavailable", "ServerBusy"),
        "412": ("Precondition Failed", "ConditionNotMet"),
    }[status]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>on demand</Message></Error>".encode()
    lines = [
        f"HTTP/1.1 {status} {reason}",
        f"x-ms-error-code: {code}",
        "content-type: application/xml",
        f"content-length: {len(body)}",
        *(["retry-after: 0"] if status == "503" else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--latency", type=float, default=0.0)
    words = parser.parse_args()
    host, _, port = words.store.partition(":")
    proxy = FaultProxy(host, int(port))
    proxy.latency = words.latency
    print(f"ready {proxy.port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
