"""Certificate bundles and Azure's JSON around them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.snp_chain import Authority
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.snp.certs import (
    CertificateChain,
    Collateral,
    build_thim,
    common_name,
    decode_host_certificates,
    parse_certificate,
    parse_certificates_pem,
    parse_chain_pem,
    parse_thim,
)


@pytest.fixture(scope="module")
def chain() -> CertificateChain:
    return Authority().chain()


def pem(*certificates: object) -> bytes:
    return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)


def test_chain_in_any_order(chain: CertificateChain) -> None:
    assert chain.to_pem() == pem(chain.leaf, chain.ask, chain.ark)
    assert parse_chain_pem(chain.to_pem()) == chain
    assert parse_chain_pem(b"text before\n" + pem(chain.ark, chain.leaf, chain.ask)) == chain


def test_incomplete_and_doubled_chains(chain: CertificateChain) -> None:
    with pytest.raises(MalformedInput, match="ARK missing"):
        parse_chain_pem(pem(chain.leaf, chain.ask))
    with pytest.raises(MalformedInput, match="leaf and ASK missing"):
        parse_chain_pem(pem(chain.ark))
    with pytest.raises(MalformedInput, match="two certificates for the place of the leaf"):
        parse_chain_pem(pem(chain.leaf, chain.leaf, chain.ask, chain.ark))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no certificate",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----" + b"A" * 300_000,
    ],
)
def test_bundles_that_do_not_parse(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        parse_certificates_pem(data)


def test_number_of_certificates_is_bounded(chain: CertificateChain) -> None:
    assert len(parse_certificates_pem(pem(chain.leaf) * 8)) == 8
    with pytest.raises(MalformedInput, match="9, wanted at most 8"):
        parse_certificates_pem(pem(chain.leaf) * 9)


def test_one_certificate_in_either_encoding(chain: CertificateChain) -> None:
    assert parse_certificate(pem(chain.leaf)) == chain.leaf
    assert parse_certificate(chain.leaf.public_bytes(Encoding.DER)) == chain.leaf
    with pytest.raises(MalformedInput, match="wanted 1"):
        parse_certificate(chain.to_pem())
    with pytest.raises(MalformedInput, match="wanted 1"):
        parse_certificate(bytes(300_000))
    with pytest.raises(MalformedInput, match="does not parse"):
        parse_certificate(chain.leaf.public_bytes(Encoding.DER) + b"\0")


def test_thim_round_trip(chain: CertificateChain) -> None:
    collateral = Collateral(chain, "db18000000000004", 86400, "here")
    data = build_thim(collateral)
    assert parse_thim(data, source="here") == collateral
    assert decode_host_certificates(base64.b64encode(data) + b"\n", source="here") == collateral
    assert collateral.tcbm == 0xDB18000000000004


def test_real_thim(shared_snp: Path) -> None:
    collateral = parse_thim((shared_snp / "uvm_host_amd_certificate.json").read_bytes())
    assert collateral.tcbm_text == "7308000000000003"
    assert collateral.cache_control == 86400
    names = [
        common_name(c.subject) for c in (collateral.chain.leaf, collateral.chain.ask, collateral.chain.ark)
    ]
    assert names == ["SEV-VCEK", "SEV-Milan", "ARK-Milan"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vcekCert", None, "'vcekCert' is missing"),
        ("vcekCert", 5, "'vcekCert': is a number, wanted a string"),
        ("vcekCert", "nothing", "leaf missing"),
        ("certificateChain", "nothing", "ASK and ARK missing"),
        ("tcbm", "0x12", "tcbm '0x12'"),
        ("tcbm", "", "tcbm ''"),
        ("tcbm", "1" * 17, "tcbm '1{17}'"),
        ("cacheControl", "soon", "cacheControl 'soon'"),
        ("cacheControl", 86400, "'cacheControl': is a number"),
    ],
)
def test_thim_with_one_mistake(chain: CertificateChain, key: str, value: object, message: str) -> None:
    fields = json.loads(build_thim(Collateral(chain, "73", 1)))
    fields[key] = value
    if value is None:
        del fields[key]
    with pytest.raises(MalformedInput, match=message):
        parse_thim(json.dumps(fields).encode())


def test_thim_tolerates_what_azure_varies(chain: CertificateChain) -> None:
    fields = json.loads(build_thim(Collateral(chain, "1", 1)))
    fields |= {"tcbm": "DB18000000000004", "vlekCert": "new"}
    del fields["cacheControl"]
    collateral = parse_thim(json.dumps(fields).encode())
    assert (collateral.tcbm, collateral.cache_control) == (0xDB18000000000004, 0)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff", b'{"tcbm":"1","tcbm":"2"}', b"{}" * 200_000]
)
def test_thim_that_is_not_the_json(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        parse_thim(data)


@given(st.binary(max_size=400))
def test_any_bytes_end_in_a_typed_error(data: bytes) -> None:
    for parse in (parse_certificate, parse_certificates_pem, parse_chain_pem, parse_thim):
        with pytest.raises(MalformedInput):
            parse(data)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_damaged_certificate_is_another_one_or_a_typed_error(
    chain: CertificateChain, position: int, value: int
) -> None:
    data = bytearray(chain.leaf.public_bytes(Encoding.DER))
    data[position % len(data)] = value
    try:
        assert parse_certificate(bytes(data)).public_bytes(Encoding.DER) == bytes(data)
    except MalformedInput:
        return
