"""Product lines and TCB versions: eight security patch levels whose places depend on the product line.

A TCB is compared component by component and never as one integer: an integer compare lets a high microcode
level hide a low boot loader level. The bytes as stored are kept, so levels nobody has named yet survive.

Spec: AMD 56860 (SNP firmware ABI), TCB_VERSION; AMD 57230 (VCEK specification), product names.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from sidecar.errors import MalformedInput

TCB_SIZE = 8


class ProductLine(StrEnum):
    """AMD's key hierarchy names; Bergamo and Siena belong to Genoa."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"

    @property
    def layout(self) -> TcbLayout:
        """Where this line keeps its TCB components."""
        return TcbLayout.TURIN if self is ProductLine.TURIN else TcbLayout.MILAN


class TcbLayout(Enum):
    """Component name to byte index; MILAN is also Genoa's, TURIN holds for every later family 1Ah part."""

    MILAN = {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7}  # noqa: RUF012 - an Enum member
    TURIN = {"fmc": 0, "boot_loader": 1, "tee": 2, "snp": 3, "microcode": 7}  # noqa: RUF012


@dataclass(frozen=True, slots=True)
class Cpuid:
    """Combined family, model and stepping as a version 3 report carries them (one byte each)."""

    family: int
    model: int
    stepping: int

    @property
    def product_line(self) -> ProductLine | None:
        """The key hierarchy of this processor, or None for one we hold no root for."""
        for line, family, models in _CPUID_RANGES:
            if self.family == family and self.model in models:
                return line
        return None

    @property
    def layout(self) -> TcbLayout:
        """TCB layout by family, which holds for lines without a root of ours as well."""
        return TcbLayout.MILAN if self.family <= 0x19 else TcbLayout.TURIN


# Stepping is left out on purpose: certificates name "Milan-B0" for stepping 1 as well.
_CPUID_RANGES = (
    (ProductLine.MILAN, 0x19, range(0x00, 0x10)),
    (ProductLine.GENOA, 0x19, range(0x10, 0x20)),
    (ProductLine.GENOA, 0x19, range(0xA0, 0xB0)),  # Bergamo, Siena
    (ProductLine.TURIN, 0x1A, range(0x00, 0x12)),
)


@dataclass(frozen=True, slots=True)
class Tcb:
    """One TCB version.

    Attributes:
        raw: 8 bytes as stored in the report, public.
        layout: how to read them.
    """

    raw: bytes
    layout: TcbLayout

    def __post_init__(self) -> None:
        if len(self.raw) != TCB_SIZE:
            raise MalformedInput(f"TCB: {len(self.raw)} bytes, wanted {TCB_SIZE}")

    @classmethod
    def of(cls, layout: TcbLayout, **components: int) -> Tcb:
        """Build a TCB from named components; those left out are zero.

        Raises:
            MalformedInput: a component that the layout does not have, or a level outside 0..255.
        """
        raw = bytearray(TCB_SIZE)
        for name, level in components.items():
            if name not in layout.value or not 0 <= level <= 0xFF:
                raise MalformedInput(
                    f"TCB component {name}: {level}, wanted one of {list(layout.value)}, 0..255"
                )
            raw[layout.value[name]] = level
        return cls(bytes(raw), layout)

    @property
    def components(self) -> dict[str, int]:
        """Named components in layout order."""
        return {name: self.raw[index] for name, index in self.layout.value.items()}

    @property
    def reserved(self) -> bytes:
        """The bytes that carry no named component, in order; zero on every part known today."""
        return bytes(b for i, b in enumerate(self.raw) if i not in self.layout.value.values())

    @property
    def number(self) -> int:
        """The field read as a little-endian 64-bit number: Azure's `tcbm`. For equality only."""
        return int.from_bytes(self.raw, "little")

    @property
    def hex(self) -> str:
        """`number` as 16 hexadecimal digits, the form Azure's certificate cache uses."""
        return f"{self.number:016x}"

    def lagging(self, floor: Tcb) -> list[str]:
        """Components of ours that are below `floor`, as "snp 8 < 24"; reserved bytes count too."""
        names = {index: name for name, index in self.layout.value.items()}
        return [
            f"{names.get(i, f'spl{i}')} {mine} < {wanted}"
            for i, (mine, wanted) in enumerate(zip(self.raw, floor.raw, strict=True))
            if mine < wanted
        ]

    def __str__(self) -> str:
        return " ".join(f"{name}={level}" for name, level in self.components.items())
