"""Connections to a store over TLS: whom they trust, and when an answer has ended."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import trio
from fakes.rawhttp import get, hear, ok, saying, serving

from encfs.block import blobwire
from encfs.block.blobhttp import BlobHttp
from encfs.block.blobwire import Wire
from encfs.errors import StoreError, StoreUnavailable
from sidecar.local import ca


@pytest.fixture(scope="module")
def root() -> ca.Issued:
    return ca.make_root(datetime.now(UTC))


def server_tls(root: ca.Issued, folder: Path, *names: str) -> ssl.SSLContext:
    issued = ca.make_leaf(root, "blobs", datetime.now(UTC), names=names)
    (folder / "chain.pem").write_bytes(issued.chain_pem())
    (folder / "key.pem").write_bytes(issued.key_pem())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    return context


def client_tls(root: ca.Issued) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=root.certificate.public_bytes(ca.Encoding.DER))


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
async def test_the_same_over_tls(root: ca.Issued, tmp_path: Path, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    async with serving(saying(*[ok(body)] * 3), server_tls(root, tmp_path, "localhost")) as server:
        wire = Wire(server.url, client_tls(root))
        for _ in range(3):
            assert await get(wire, size) == (206, body)
        await wire.aclose()


@pytest.mark.parametrize("why", ["a stranger's root", "another name"])
async def test_a_server_that_is_not_trusted_is_asked_nothing(
    root: ca.Issued, tmp_path: Path, why: str
) -> None:
    other = ca.make_root(datetime.now(UTC))
    name = "other.localhost" if why == "another name" else "localhost"
    trusted = root if why == "another name" else other
    heard = []

    async def listen(stream: trio.abc.Stream) -> None:
        heard.append(await stream.receive_some(1))

    async with serving(listen, server_tls(root, tmp_path, name)) as server:
        http = BlobHttp(server.url, tls=client_tls(trusted))
        with pytest.raises(StoreError, match="certificate") as caught:
            await http.send("GET", headers={}, doing="reading")
        assert not isinstance(caught.value, StoreUnavailable), "asking again does not help"
        assert not any(heard)
        await http.aclose()


@pytest.mark.parametrize("says_so", [True, False])
async def test_a_body_that_ends_with_a_tls_connection_ends_when_that_says_so(
    root: ca.Issued, tmp_path: Path, says_so: bool
) -> None:
    async def talk(stream: trio.abc.Stream) -> None:
        await hear(stream)
        await stream.send_all(b"HTTP/1.1 500 Oh\r\n\r\nabcde")
        if says_so:
            assert isinstance(stream, trio.SSLStream)
            await (await stream.unwrap())[0].aclose()

    tls = server_tls(root, tmp_path, "localhost")
    async with serving(talk, tls) as server:
        wire = Wire(server.url, client_tls(root))
        if says_so:
            assert await get(wire) == (500, b"abcde")
        else:
            with pytest.raises(httpx.ReadError):
                await get(wire)
        await wire.aclose()


async def test_what_follows_an_answer_in_the_same_record_is_not_the_next_one(
    root: ca.Issued, tmp_path: Path
) -> None:
    tls = server_tls(root, tmp_path, "localhost")
    async with serving(saying(ok(bytes(100_000)) + ok(b"forged"), ok(b"2")), tls) as server:
        wire = Wire(server.url, client_tls(root))
        assert await get(wire, 100_000) == (206, bytes(100_000))
        assert await get(wire, 100_000) == (206, bytes(100_000))
        assert server.connections == 2
        await wire.aclose()


async def test_much_to_send_and_a_slow_reader(root: ca.Issued, tmp_path: Path) -> None:
    heard = bytearray()

    async def listen(stream: trio.abc.Stream) -> None:
        await hear(stream)
        while len(heard) < 3_000_000:
            await trio.sleep(0.001)
            heard.extend(await stream.receive_some(65536))
        await stream.send_all(b"HTTP/1.1 201 Made\r\ncontent-length: 0\r\n\r\n")

    body = bytes(number % 253 for number in range(3_000_000))
    async with serving(listen, server_tls(root, tmp_path, "localhost")) as server:
        http = BlobHttp(server.url, tls=client_tls(root))
        reply = await http.send("PUT", "comp=page", headers={}, doing="writing", body=memoryview(body))
        assert reply.status == 201
        assert heard == body
        await http.aclose()


async def test_a_server_that_never_shakes_hands(
    root: ca.Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobwire, "_CONNECT_SECONDS", 0.2)

    async def mute(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with serving(mute, server_tls(root, tmp_path, "localhost")) as server:
        wire = Wire(server.url, client_tls(root))
        with pytest.raises(httpx.ConnectTimeout):
            await get(wire)
        await wire.aclose()
