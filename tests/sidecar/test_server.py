"""Server and ASGI adapter together, over real sockets: limits, deadlines, cut answers, both ends of life."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.serialization import Encoding
from fakes import pki
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

from sidecar.asgi import asgi_app
from sidecar.errors import UsageError
from sidecar.local.ca import make_intermediate, make_leaf, make_root
from sidecar.server import bind_loopback, bind_unix, serve_asgi, server_tls
from sidecar.web import WebRequest, WebResponse, json_response


async def echo(request: WebRequest) -> WebResponse:
    if request.path == "/fail":
        raise RuntimeError("a bug")
    if request.path == "/cut":
        return WebResponse(200, b"x" * 100, cut=40)
    if request.path == "/cut-all":
        return WebResponse(200, b"x" * 100, cut=0)
    seen = {"method": request.method, "path": request.path, "query": dict(request.query)}
    return json_response(seen | {"length": len(request.body), "x": request.headers.get("x")})


@asynccontextmanager
async def served(**options: Any) -> Any:
    app = asgi_app(echo, max_body=1000, deadline=0.3)
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(
            lambda task_status: serve_asgi(app, task_status=task_status, **options)
        )
        async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
            yield client
        nursery.cancel_scope.cancel()


async def test_request_reaches_the_handler_as_sent() -> None:
    async with served() as client:
        answer = await client.post("/a%2Fb//c?q=1&r=", content=b"body", headers={"X": "y"})
    assert answer.json() == {
        "method": "POST",
        "path": "/a%2Fb//c",
        "query": {"q": "1", "r": ""},
        "length": 4,
        "x": "y",
    }
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert "server" not in answer.headers


async def test_announced_large_body_is_refused() -> None:
    async with served() as client:
        assert (await client.post("/", content=b"z" * 1000)).json()["length"] == 1000
        answer = await client.post("/", content=b"z" * 1001)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "RequestBodyTooLarge"
        assert (await client.get("/")).status_code == 200


async def test_endless_chunks_are_refused_and_the_server_lives() -> None:
    async with served() as client:
        stream = await trio.open_tcp_stream(client.base_url.host, client.base_url.port)
        async with stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(20):
                await stream.send_all(b"64\r\n" + b"z" * 100 + b"\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 413")
        assert (await client.get("/")).status_code == 200


async def test_slow_body_is_given_up() -> None:
    async with served() as client:
        stream = await trio.open_tcp_stream(client.base_url.host, client.base_url.port)
        async with stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 408")


async def test_repeated_parameter_is_a_client_error() -> None:
    async with served() as client:
        assert (await client.get("/?a=1&a=2")).status_code == 400


async def test_bug_gives_a_bare_500(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as client:
        answer = await client.post("/fail", content=b"secret body")
    assert answer.status_code == 500
    assert "a bug" not in answer.text
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.getMessage() == "POST /fail: failed"
    assert "secret body" not in caplog.text
    caplog.clear()


@pytest.mark.parametrize("after", ["data", "reset", "window", "garbage"])
async def test_what_breaks_one_connection_touches_no_other(after: str) -> None:
    """HTTP/2 frames for a stream that was answered before it ended: hypercorn raises KeyError for some."""

    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"before you ended"})

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(lambda task_status: serve_asgi(hasty, task_status=task_status))
        host, port = address.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        client = H2Connection(H2Configuration(client_side=True))
        client.initiate_connection()
        head = {":method": "POST", ":path": "/", ":scheme": "http", ":authority": host}
        client.send_headers(1, list(head.items()))
        await stream.send_all(client.data_to_send())
        seen: list[object] = []
        while not any(isinstance(event, StreamEnded) for event in seen):
            seen += client.receive_data(await stream.receive_some())
        # Made by hand: the library would not send them.
        frames = {
            "data": b"\x00\x00\x04\x00\x01\x00\x00\x00\x01late",
            "reset": b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08",
            "window": b"\x00\x00\x04\x08\x00\x00\x00\x00\x01\x00\x00\x00\xff",
            "garbage": bytes(range(255)),
        }
        async with stream:
            with trio.fail_after(4), contextlib.suppress(trio.BrokenResourceError):
                # A ping's answer, or the end, says that the frame was read.
                await stream.send_all(frames[after] + b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8))
                await stream.receive_some()
        async with httpx.AsyncClient(base_url=address, trust_env=False) as other:
            assert (await other.get("/")).status_code == 200
        nursery.cancel_scope.cancel()


async def test_a_served_socket_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bound = bind_unix(path)
    bound.listen(1)
    with pytest.raises(UsageError, match="in use"):
        bind_unix(path)
    bound.close()
    bind_unix(path).close()


@pytest.mark.parametrize("path", ["/cut", "/cut-all"])
async def test_cut_answer_is_seen_as_cut(path: str) -> None:
    async with served() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(path)
        assert (await client.get("/")).status_code == 200


async def test_tls_with_our_authority(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    root = make_root(now)
    leaf = make_leaf(make_intermediate(root, now), "local", now)
    (tmp_path / "c.pem").write_bytes(leaf.chain_pem())
    (tmp_path / "k.pem").write_bytes(leaf.key_pem())
    async with served(tls=server_tls(tmp_path / "c.pem", tmp_path / "k.pem")) as plain:
        url = f"https://localhost:{plain.base_url.port}/"
        trusting = ssl.create_default_context(cadata=root.certificate.public_bytes(Encoding.PEM).decode())
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
            assert (await client.get(url)).status_code == 200
        strict = ssl.create_default_context(cadata=pki.root().certificate.public_bytes(Encoding.PEM).decode())
        async with httpx.AsyncClient(verify=strict, trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(url)


async def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind_unix(path).close()  # a stale one is in the way
    bound = bind_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve_asgi(asgi_app(echo), sockets=[bound], task_status=task_status)
        )
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            assert (await client.get("http://x/")).status_code == 200
        nursery.cancel_scope.cancel()


async def test_both_loopback_families_on_one_port() -> None:
    v4 = bind_loopback("127.0.0.1")
    v6 = bind_loopback("::1", v4.getsockname()[1])
    port = v4.getsockname()[1]
    async with trio.open_nursery() as nursery:
        start = nursery.start
        await start(lambda task_status: serve_asgi(asgi_app(echo), sockets=[v4, v6], task_status=task_status))
        async with httpx.AsyncClient(trust_env=False) as client:
            for host in ("127.0.0.1", "[::1]"):
                assert (await client.get(f"http://{host}:{port}/")).status_code == 200
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_only_loopback(host: str) -> None:
    with pytest.raises(UsageError, match="loopback"):
        bind_loopback(host)


def test_taken_port_and_occupied_path(tmp_path: Path) -> None:
    first = bind_loopback()
    first.listen()
    with pytest.raises(UsageError, match="Address already in use"):
        bind_loopback(port=first.getsockname()[1])
    first.close()
    (tmp_path / "file").write_text("data")
    with pytest.raises(UsageError, match="Address already in use"):
        bind_unix(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "data"


async def started(app: Any, shutdown: trio.Event) -> Callable[..., Awaitable[None]]:
    async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
        await serve_asgi(app, shutdown=shutdown, task_status=task_status)

    return run


async def test_shutdown_lets_an_open_request_finish() -> None:
    entered, go, shutdown = trio.Event(), trio.Event(), trio.Event()

    async def slow(request: WebRequest) -> WebResponse:
        entered.set()
        await go.wait()
        return json_response("done")

    answers: list[httpx.Response] = []
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(await started(asgi_app(slow), shutdown))

        async def ask() -> None:
            async with httpx.AsyncClient(trust_env=False) as client:
                answers.append(await client.get(address))

        nursery.start_soon(ask)
        await entered.wait()
        shutdown.set()
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert answers[0].json() == "done"


async def test_websocket_is_refused() -> None:
    async with served() as client:
        headers = {
            "upgrade": "websocket",
            "connection": "upgrade",
            "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        assert (await client.get("/", headers=headers)).status_code == 403


def test_bound_socket_is_not_yet_listening() -> None:
    """So nobody can connect before the application is there."""
    bound = bind_loopback()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(bound.getsockname())
    bound.close()
