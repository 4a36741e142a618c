"""AMD's leaf extensions: each present, each in its one encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from fakes.snp_chain import Authority, Certificate, der_ia5, der_int, leaf_extensions, name

from sidecar.errors import MalformedInput
from sidecar.snp.certs import parse_thim
from sidecar.snp.leaf import LeafKind, build_leaf_extensions, parse_leaf
from sidecar.snp.tcb import ProductLine, TcbLayout

MILAN, GENOA, TURIN = ProductLine.MILAN, ProductLine.GENOA, ProductLine.TURIN


@pytest.mark.parametrize("vlek", [False, True], ids=["vcek", "vlek"])
@pytest.mark.parametrize("line", list(ProductLine))
def test_every_line_and_kind(line: ProductLine, vlek: bool) -> None:
    authority = Authority(line, vlek)
    leaf = parse_leaf(authority.chain().leaf)
    assert leaf.kind is (LeafKind.VLEK if vlek else LeafKind.VCEK)
    assert leaf.tcb.raw == authority.levels
    assert leaf.tcb.layout is line.layout
    assert leaf.hwid == (None if vlek else authority.chip)
    assert leaf.csp_id == ("CN=cloud.example" if vlek else None)
    assert {e.oid.dotted_string: e.value for e in build_leaf_extensions(leaf)} == {
        f"1.3.6.1.4.1.3704.1.{number}": value for number, value in authority.values().items()
    }


def test_real_leaf(shared_snp: Path) -> None:
    chain = parse_thim((shared_snp / "uvm_host_amd_certificate.json").read_bytes()).chain
    leaf = parse_leaf(chain.leaf)
    report = (shared_snp / "snp_report.bin").read_bytes()
    assert (leaf.kind, leaf.struct_version, leaf.product_name) == (LeafKind.VCEK, 0, "Milan-B0")
    assert leaf.tcb.raw == report[0x180:0x188]
    assert leaf.hwid == report[0x1A0:0x1E0]
    with pytest.raises(MalformedInput, match="subject 'SEV-Milan', wanted SEV-VCEK or SEV-VLEK"):
        parse_leaf(chain.ask)


def test_hardware_id_is_raw_not_der() -> None:
    looks_like_der = b"\x04\x3e".ljust(64, b"\x01")
    assert parse_leaf(Authority(hwid=looks_like_der).chain().leaf).hwid == looks_like_der


def test_levels_above_127() -> None:
    leaf = parse_leaf(Authority(tcb=bytes((0x80, 0xFF, 1, 2, 3, 0x90, 0xA0, 0xDB))).chain().leaf)
    assert leaf.tcb.components == {"boot_loader": 0x80, "tee": 0xFF, "snp": 0xA0, "microcode": 0xDB}
    assert leaf.tcb.layout is TcbLayout.MILAN


def drop(number: str) -> Callable[[dict[str, bytes]], object]:
    return lambda values: values.pop(number)


def put(number: str, value: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda values: values.__setitem__(number, value)


SPOILED = [
    *[(MILAN, drop(n), n) for n in ["1", "2", "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8", "4"]],
    *[(TURIN, drop(n), n) for n in ["1", "2", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8", "3.9", "4"]],
    (MILAN, put("3.9", der_int(1)), "3.9"),
    (TURIN, put("3.4", der_int(1)), "3.4"),
    (MILAN, put("5", der_ia5("CN=x")), "for a VCEK: .*1.5"),
    (MILAN, put("6", b"\x05\x00"), "1.6"),
    (MILAN, put("1", der_int(2)), "structVersion 2"),
    (MILAN, put("3.8", b"\x02\x01\xdb"), "no INTEGER"),
    (MILAN, put("3.8", b"\x02\x02\x00\x73"), "no INTEGER"),
    (MILAN, put("3.8", b"\x02\x02\x01\x73"), "no INTEGER"),
    (MILAN, put("3.8", b"\x04\x01\x73"), "no INTEGER"),
    (MILAN, put("3.8", b""), "no INTEGER"),
    (MILAN, put("3.8", b"\x02\x01\x73\x00"), "no INTEGER"),
    (MILAN, put("2", b"\x0c\x08Milan-B0"), "no IA5String"),
    (MILAN, put("2", b"\x16\x09Milan-B0"), "no IA5String"),
    (MILAN, put("2", b"\x16\x00"), "no IA5String"),
    (MILAN, put("2", b"\x16\x01\xff"), "no IA5String"),
    (MILAN, put("4", bytes(8)), "hardware id of 8 bytes, wanted 64"),
    (MILAN, put("4", b"\x04\x40" + bytes(64)), "hardware id of 66 bytes, wanted 64"),
    (TURIN, put("4", bytes(64)), "hardware id of 64 bytes, wanted 8"),
]


@pytest.mark.parametrize(("line", "spoil", "message"), SPOILED)
def test_one_mistake(line: ProductLine, spoil: Callable[[dict[str, bytes]], object], message: str) -> None:
    leaf = Authority(line, spoil_values=spoil).chain().leaf
    with pytest.raises(MalformedInput, match=message):
        parse_leaf(leaf)


@pytest.mark.parametrize(
    ("spoil", "message"), [(drop("5"), "1.5"), (put("4", bytes(64)), "for a VLEK: .*1.4")]
)
def test_one_mistake_in_a_vlek(spoil: Callable[[dict[str, bytes]], object], message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_leaf(Authority(GENOA, vlek=True, spoil_values=spoil).chain().leaf)


def test_foreign_extensions_are_refused() -> None:
    def spoil(leaf: Certificate) -> Certificate:
        return replace(leaf, extensions=(*leaf.extensions, (x509.BasicConstraints(False, None), False)))

    with pytest.raises(MalformedInput, match=r"unknown extension 2\.5\.29\.19"):
        parse_leaf(Authority(spoil_leaf=spoil).chain().leaf)


def test_a_name_that_only_begins_right_is_refused() -> None:
    values = Authority().values()
    spoiled = Authority(
        spoil_leaf=lambda c: replace(c, subject=name("SEV-VCEK2"), extensions=leaf_extensions(values))
    )
    with pytest.raises(MalformedInput, match="subject 'SEV-VCEK2'"):
        parse_leaf(spoiled.chain().leaf)
