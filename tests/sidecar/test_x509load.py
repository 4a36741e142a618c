"""Loading certificates: one type of error, and no warnings a peer could cause."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.snp_chain import Authority
from fakes.snp_cose import Issuer

from sidecar.errors import MalformedInput
from sidecar.x509load import load_der, load_pem


def test_both_encodings() -> None:
    chain = Authority().chain()
    assert load_der(chain.leaf.public_bytes(Encoding.DER)) == chain.leaf
    assert load_pem(chain.to_pem()) == [chain.leaf, chain.ask, chain.ark]


@pytest.mark.parametrize("data", [b"", b"junk", b"0\x03\x02\x01\x00"])
def test_errors_name_the_input(data: bytes) -> None:
    for load in (load_der, load_pem):
        with pytest.raises(MalformedInput, match="the chain: does not parse"):
            load(data, what="the chain")


def test_a_kind_of_name_the_library_does_not_read() -> None:
    """Found by fuzzing: an EDIPartyName among alternative names has an error class of its own."""
    der = bytearray(Issuer().chain()[0].public_bytes(Encoding.DER))
    place = der.index(b"\x82\x0bexample.com")
    der[place] = 0xA5
    with pytest.raises(MalformedInput, match="does not parse"):
        load_der(bytes(der))


def outcome(root: Path, program: str, file: Path) -> tuple[int, str]:
    """Run in a process of its own, where every warning that is not silenced ends it."""
    argv = [sys.executable, "-W", "error", "-c", program, str(file)]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_name_of_odd_length_warns_nobody(root: Path, tmp_path: Path) -> None:
    der = bytearray(Authority().chain().leaf.public_bytes(Encoding.DER))
    # The issuer's organisation becomes a second country of 22 letters.
    place = der.index(bytes.fromhex("060355040a"))
    der[place + 4] = 0x06
    file = tmp_path / "leaf.der"
    file.write_bytes(der)
    read = "import sys, pathlib; data = pathlib.Path(sys.argv[1]).read_bytes(); "
    ours = read + "from sidecar.x509load import load_der; load_der(data)"
    assert outcome(root, ours, file) == (0, "")
    theirs = read + "from cryptography import x509; x509.load_der_x509_certificate(data).issuer"
    assert "Attribute's length must be" in outcome(root, theirs, file)[1], (
        "no longer warned of: drop the filter"
    )
