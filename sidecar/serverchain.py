"""The certificate chain of a service: from a trusted root to a leaf that names the host.

Strategy: `cryptography`'s path builder does the work, by the rules for web servers. It takes any
certificate sent as a possible intermediate, so a chain verifies with or without its root, in any order
after the leaf.

Rules: the caller passes roots and time; nothing sent by the service is ever trusted; a chain that is good
for another host is refused.

Spec: RFC 5280 section 6, RFC 6125, CA/Browser Forum baseline profile.

Kind: pure
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime
from typing import TypeAlias

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, Subject, VerificationError

from sidecar.errors import MalformedInput, VerificationFailed

# Making a store of a system's roots takes a millisecond: who judges often makes one with `store_of`.
Roots: TypeAlias = Sequence[x509.Certificate] | Store


def store_of(roots: Sequence[x509.Certificate]) -> Store:
    """Roots to judge by, made ready once.

    Raises:
        VerificationFailed: there are none.
    """
    if not roots:
        raise VerificationFailed(
            "trusted roots: there are none", hint="set SIDECAR_CA_FILE or install ca-certificates"
        )
    return Store(list(roots))


def verify_server_chain(
    chain: Sequence[x509.Certificate],
    *,
    host: str,
    roots: Roots,
    at: datetime,
    what: str = "certificate chain",
) -> x509.Certificate:
    """Check a chain for a host.

    Args:
        chain: leaf first, as sent.
        host: DNS name or address, without a port.
        roots: what the caller trusts, as certificates or made ready by `store_of`.
        at: the time to judge by, aware.
        what: the words that name it in errors.

    Returns:
        the leaf, trusted for this host.

    Raises:
        VerificationFailed: no path to a root, expired, or another host's; also when no root is given.
        MalformedInput: the chain is empty, or the host is neither a name nor an address.
    """
    if not chain:
        raise MalformedInput(f"{what}: no certificate, wanted at least one")
    store = roots if isinstance(roots, Store) else store_of(roots)
    try:
        verifier = PolicyBuilder().store(store).time(at).build_server_verifier(_subject(host))
        verifier.verify(chain[0], list(chain[1:]))
    except VerificationError as exc:
        raise VerificationFailed(
            f"{what}: not trusted for {host}: {str(exc).partition(' (encountered')[0]}",
            hint="the service is not the one named, or its root is not among the trusted ones",
        ) from exc
    except ValueError as exc:
        raise MalformedInput(f"{what}: cannot be judged for host {host[:253]!r}: {exc}") from exc
    return chain[0]


def _subject(host: str) -> Subject:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)
