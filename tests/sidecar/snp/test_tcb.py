"""Product lines from CPUID, and TCBs compared by component."""

from __future__ import annotations

import pytest

from sidecar.errors import MalformedInput
from sidecar.snp.tcb import Cpuid, ProductLine, Tcb, TcbLayout


@pytest.mark.parametrize(
    ("family", "model", "line"),
    [
        (0x19, 0x00, ProductLine.MILAN),
        (0x19, 0x0F, ProductLine.MILAN),
        (0x19, 0x10, ProductLine.GENOA),
        (0x19, 0x1F, ProductLine.GENOA),
        (0x19, 0x20, None),
        (0x19, 0x9F, None),
        (0x19, 0xA0, ProductLine.GENOA),
        (0x19, 0xAF, ProductLine.GENOA),
        (0x19, 0xB0, None),
        (0x1A, 0x00, ProductLine.TURIN),
        (0x1A, 0x11, ProductLine.TURIN),
        (0x1A, 0x12, None),
        (0x1A, 0x50, None),
        (0x17, 0x01, None),
        (0x00, 0x00, None),
    ],
)
def test_product_line_by_cpuid(family: int, model: int, line: ProductLine | None) -> None:
    assert Cpuid(family, model, 1).product_line is line


@pytest.mark.parametrize(("family", "layout"), [(0x19, TcbLayout.MILAN), (0x1A, TcbLayout.TURIN)])
def test_layout_by_family_even_without_a_root(family: int, layout: TcbLayout) -> None:
    assert Cpuid(family, 0x50, 0).layout is layout


def test_components_and_reserved_bytes() -> None:
    raw = bytes(range(1, 9))
    assert Tcb(raw, TcbLayout.MILAN).components == {"boot_loader": 1, "tee": 2, "snp": 7, "microcode": 8}
    assert Tcb(raw, TcbLayout.MILAN).reserved == bytes((3, 4, 5, 6))
    assert Tcb(raw, TcbLayout.TURIN).components == {
        "fmc": 1,
        "boot_loader": 2,
        "tee": 3,
        "snp": 4,
        "microcode": 8,
    }
    assert Tcb(raw, TcbLayout.TURIN).reserved == bytes((5, 6, 7))


def test_compare_is_by_component_not_by_number() -> None:
    floor = Tcb.of(TcbLayout.MILAN, boot_loader=4, snp=8, microcode=0x73)
    newer_microcode = Tcb.of(TcbLayout.MILAN, boot_loader=3, snp=8, microcode=0xFF)
    assert newer_microcode.number > floor.number
    assert newer_microcode.lagging(floor) == ["boot_loader 3 < 4"]
    assert floor.lagging(floor) == []


def test_reserved_bytes_count_in_a_compare() -> None:
    assert Tcb(bytes(8), TcbLayout.MILAN).lagging(Tcb(bytes((0, 0, 1, 0, 0, 0, 0, 0)), TcbLayout.MILAN)) == [
        "spl2 0 < 1"
    ]


@pytest.mark.parametrize("components", [{"fmc": 1}, {"snp": 256}, {"snp": -1}, {"bootloader": 1}])
def test_unknown_components_are_refused(components: dict[str, int]) -> None:
    with pytest.raises(MalformedInput):
        Tcb.of(TcbLayout.MILAN, **components)


def test_another_size_is_refused() -> None:
    with pytest.raises(MalformedInput, match="7 bytes, wanted 8"):
        Tcb(bytes(7), TcbLayout.MILAN)
