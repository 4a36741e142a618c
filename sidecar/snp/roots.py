"""Trust anchors: which ARKs may end a chain, pinned by fingerprint in this file or passed in by name.

Rules: the ARK in the evidence is never trusted for its names; it counts only when the SHA-256 of its DER
encoding is one of the anchors, so the object used is the object pinned. The software processor's root is in
no default set; whoever wants it passes `Roots.of(its_ark)`, and every result then says "not hardware".

Spec: AMD 57230; fingerprints of the roots in AMD's chains, kdsintf.amd.com/vcek/v1/{line}/cert_chain.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from sidecar.errors import MalformedInput
from sidecar.snp.certs import common_name, line_of_name
from sidecar.snp.tcb import ProductLine

# SHA-256 of the DER certificates ARK-Milan, ARK-Genoa (also Bergamo, Siena) and ARK-Turin.
PINNED_ROOTS = MappingProxyType(
    {
        ProductLine.MILAN: "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        ProductLine.GENOA: "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        ProductLine.TURIN: "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    }
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """One trusted root.

    Attributes:
        fingerprint: SHA-256 of the root's DER, 32 bytes, public.
        line: the product line its keys sign for.
        is_hardware: AMD's own; false for the software processor and for test roots.
    """

    fingerprint: bytes
    line: ProductLine
    is_hardware: bool


@dataclass(frozen=True, slots=True)
class Roots:
    """A set of anchors."""

    anchors: tuple[Anchor, ...]

    @classmethod
    def amd(cls) -> Roots:
        """AMD's roots, as pinned above."""
        return cls(tuple(Anchor(bytes.fromhex(h), line, True) for line, h in PINNED_ROOTS.items()))

    @classmethod
    def of(cls, ark: x509.Certificate) -> Roots:
        """Exactly this root; for the software processor and for tests.

        Raises:
            MalformedInput: its common name has no product line.
        """
        line = line_of_name(common_name(ark.subject))
        if line is None:
            raise MalformedInput(f"root {common_name(ark.subject)!r}: no product line in its name")
        fingerprint = ark.fingerprint(SHA256())
        return cls((Anchor(fingerprint, line, fingerprint.hex() == PINNED_ROOTS[line]),))

    def __or__(self, other: Roots) -> Roots:
        return Roots(self.anchors + other.anchors)

    def find(self, ark: x509.Certificate) -> Anchor | None:
        """The anchor that this certificate is, byte for byte, or None."""
        fingerprint = ark.fingerprint(SHA256())
        return next((a for a in self.anchors if a.fingerprint == fingerprint), None)
