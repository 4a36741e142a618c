"""Revocation lists: optional, and binding once given."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.snp_chain import NOW, Authority, name, rsa_key
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import CertificateRevoked, ExitCode, MalformedInput
from sidecar.snp.revocation import RevocationList, parse_revocation_list
from sidecar.snp.roots import Roots
from sidecar.snp.tcb import ProductLine
from sidecar.snp.verify import verify_evidence

PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
WEEK = timedelta(days=7)


def crl(
    *serials: int,
    issuer: x509.Name | None = None,
    signer: rsa.RSAPrivateKey | None = None,
    first: datetime = NOW - WEEK,
    last: datetime = NOW + WEEK,
    pad: padding.PSS | padding.PKCS1v15 = PSS,
    encoding: Encoding = Encoding.DER,
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer or name("ARK-Milan"))
        .last_update(first)
        .next_update(last)
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(first).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(signer or rsa_key("ark"), hashes.SHA384(), rsa_padding=pad)
    return signed.public_bytes(encoding)


def verify(*lists: bytes, line: ProductLine = ProductLine.MILAN) -> list[str]:
    authority = Authority(line)
    chain = authority.chain()
    revocation: list[RevocationList] = [parse_revocation_list(data) for data in lists]
    roots = Roots.of(chain.ark)
    seen = verify_evidence(authority.report(), chain, roots=roots, at=NOW, revocation=revocation)
    return [check.detail for check in seen.checks if check.name == "revocation"]


def test_no_list_no_check() -> None:
    assert verify() == []


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_nothing_revoked(encoding: Encoding) -> None:
    assert verify(crl(encoding=encoding)) == ["not on the list of 2026-02-22"]
    assert verify(crl(5, 77), crl(0x10001, issuer=name("ARK-Genoa"))) == ["not on the list of 2026-02-22"]


REFUSED: list[tuple[str, Callable[[], bytes]]] = [
    ("SEV-Milan is revoked", lambda: crl(0x10001)),
    ("ARK-Milan is revoked", lambda: crl(1, 2, 0x10000)),
    ("not signed by the root", lambda: crl(signer=rsa_key("rogue"))),
    ("wanted RSASSA-PSS", lambda: crl(pad=padding.PKCS1v15())),
    ("not signed by the root", lambda: crl(pad=padding.PSS(padding.MGF1(hashes.SHA384()), 32))),
    ("the list is valid 2026-01-01 to 2026-02-22", lambda: crl(first=datetime(2026, 1, 1), last=NOW - WEEK)),
    ("the list is valid 2026-03-08", lambda: crl(first=NOW + WEEK, last=NOW + 2 * WEEK)),
    ("0 lists of 'ARK-Milan'", lambda: crl(issuer=name("ARK-Genoa"))),
]


@pytest.mark.parametrize(("message", "make"), REFUSED)
def test_lists_that_refuse(message: str, make: Callable[[], bytes]) -> None:
    with pytest.raises(CertificateRevoked, match=f"revocation: .*{message}") as caught:
        verify(make())
    assert caught.value.exit_code is ExitCode.CERTIFICATE_REVOKED


def test_two_lists_of_one_root_are_refused() -> None:
    """Whoever sends the newer one could hide it behind the older."""
    with pytest.raises(CertificateRevoked, match="2 lists of 'ARK-Milan', wanted 1"):
        verify(crl(), crl(5))


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN X509 CRL-----\n", bytes(256 * 1024 + 1)])
def test_lists_that_do_not_parse(data: bytes) -> None:
    with pytest.raises(MalformedInput, match="revocation list"):
        parse_revocation_list(data)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_damage_never_turns_into_acceptance(position: int, value: int) -> None:
    good = CRL
    data = bytearray(good)
    data[position % len(data)] = value
    if bytes(data) == good:
        return
    with pytest.raises((MalformedInput, CertificateRevoked)):
        verify(bytes(data))


CRL = crl(5)
