"""The local authority: loopback only, readable by a second implementation, stored and loaded."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.serialization import Encoding
from fakes import pki

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.local.ca import load_issued, make_intermediate, make_leaf, make_root, make_self_signed
from sidecar.serverchain import verify_server_chain


def test_root_cannot_vouch_for_the_world() -> None:
    """Whoever trusts this root on a laptop trusts it for loopback names only."""
    root = make_root(pki.NOW)
    leaf = make_leaf(
        make_intermediate(root, pki.NOW), "x", pki.NOW, names=["vault.azure.net"], addresses=["10.0.0.1"]
    )
    for host in ("vault.azure.net", "10.0.0.1"):
        with pytest.raises(VerificationFailed):
            verify_server_chain(leaf.chain, host=host, roots=[root.certificate], at=pki.NOW)


def test_store_and_load() -> None:
    leaf = pki.leaf()
    pem = b"".join(c.public_bytes(Encoding.PEM) for c in leaf.chain)
    again = load_issued(pem, leaf.key_pem())
    assert again.chain == leaf.chain
    assert again.key.private_numbers() == leaf.key.private_numbers()
    with pytest.raises(MalformedInput, match="another one's"):
        load_issued(pem, make_self_signed("x", pki.NOW).key_pem())
    with pytest.raises(MalformedInput, match="not PEM"):
        load_issued(b"x", leaf.key_pem())


def test_key_stays_out_of_repr() -> None:
    assert "PRIVATE" not in repr(pki.leaf())
    assert "key=" not in repr(pki.leaf())


@pytest.mark.parametrize(("name", "trusted"), [("localhost", True), ("example.com", False)])
async def test_real_handshake(tmp_path: Path, name: str, trusted: bool) -> None:
    """OpenSSL, as Python's clients use it, accepts the chain for localhost with only the root known."""
    now = datetime.now(UTC)
    root = make_root(now)
    leaf = make_leaf(make_intermediate(root, now), "local", now)
    (tmp_path / "chain.pem").write_bytes(leaf.chain_pem())
    (tmp_path / "key.pem").write_bytes(leaf.key_pem())
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    client = ssl.create_default_context(cadata=root.certificate.public_bytes(Encoding.PEM).decode())
    left, right = trio.testing.memory_stream_pair()
    outcome: list[bool] = []

    async def serve() -> None:
        try:
            await trio.SSLStream(right, server, server_side=True).do_handshake()
        except trio.BrokenResourceError:
            await right.aclose()

    async def connect() -> None:
        try:
            await trio.SSLStream(left, client, server_hostname=name).do_handshake()
            outcome.append(True)
        except trio.BrokenResourceError as exc:
            outcome.append(not isinstance(exc.__cause__, ssl.SSLCertVerificationError))
            await left.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(connect)
    assert outcome == [trusted]
