"""Chains of services: with and without the root, for another host, expired, and by the wrong root."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fakes import pki

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.local.ca import make_intermediate, make_leaf, make_root
from sidecar.serverchain import verify_server_chain

CHAIN = pki.leaf().chain
GOOD: dict[str, Any] = {"host": "localhost", "roots": [pki.root().certificate], "at": pki.NOW}


@pytest.mark.parametrize("chain", [CHAIN, CHAIN[:2], (CHAIN[0], CHAIN[2], CHAIN[1])])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "[::1]", "vault.localhost"])
def test_good_chains(chain: Any, host: str) -> None:
    assert verify_server_chain(chain, **(GOOD | {"host": host})) is chain[0]


@pytest.mark.parametrize(
    ("chain", "changes", "reason"),
    [
        (CHAIN, {"host": "example.com"}, "not trusted for example.com"),
        (CHAIN, {"host": "127.0.0.2"}, "not trusted for 127.0.0.2"),
        (CHAIN, {"roots": [make_root(pki.NOW).certificate]}, "not trusted for localhost"),
        (CHAIN, {"roots": []}, "trusted roots: there are none"),
        (CHAIN, {"at": pki.NOW + timedelta(days=400)}, "not trusted"),
        (CHAIN, {"at": pki.NOW - timedelta(days=2)}, "not trusted"),
        (CHAIN[:1], {}, "not trusted"),
        (CHAIN[1:], {}, "not trusted"),
        (pki.self_signed().chain, {}, "not trusted"),
    ],
)
def test_refused(chain: Any, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(VerificationFailed, match=reason):
        verify_server_chain(chain, **(GOOD | changes))


def test_malformed() -> None:
    with pytest.raises(MalformedInput, match="no certificate"):
        verify_server_chain((), **GOOD)
    with pytest.raises(MalformedInput, match="cannot be judged"):
        verify_server_chain(CHAIN, **(GOOD | {"host": "not a host"}))


def test_root_of_the_sender_is_not_trusted() -> None:
    """The predecessor, on one platform, trusted the root inside the answer."""
    foreign = make_leaf(make_intermediate(make_root(pki.NOW), pki.NOW), "evil", pki.NOW)
    with pytest.raises(VerificationFailed):
        verify_server_chain(foreign.chain, **GOOD)
