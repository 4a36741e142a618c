"""Atheris target: a signed fragment of any bytes is verified or refused, and a changed one never verifies.

Run by tests/sidecar/policy/test_fuzz.py; by hand: `python tests/fuzz/policy_fragment.py CORPUS
-max_total_time=60`. The first byte of an input chooses what the rest is: a whole message; bytes laid over a
good one; a protected header, signed anew so that the certificate chain and the names in it are reached."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(
    include=["sidecar.policy", "sidecar.cbor", "sidecar.cose", "sidecar.didx509"]
):
    from sidecar.cbor import Tagged, encode
    from sidecar.cose import parse_sign1
    from sidecar.errors import SidecarError
    from sidecar.policy.fragment import load_signer, sign_fragment, verify_fragment
    from sidecar.policy.testchain import make_test_chain

from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature  # noqa: E402
from cryptography.hazmat.primitives.hashes import SHA256  # noqa: E402
from fakes.policies import fragment_text  # noqa: E402

CHAIN = make_test_chain(now=datetime(2026, 1, 1, tzinfo=UTC), kind="p256")
SIGNER = load_signer(CHAIN.key_pem, CHAIN.chain_pem)
GOOD = sign_fragment(fragment_text(), SIGNER, feed="registry.example/app")
MESSAGE = parse_sign1(GOOD)


def message_of(data: bytes) -> bytes:
    """Turn an input into a message."""
    kind, rest = data[:1], data[1:]
    if kind == b"O":
        changed = bytearray(GOOD)
        while len(rest) > 3:
            place, length = int.from_bytes(rest[:2], "big") % len(GOOD), rest[2]
            part = rest[3 : 3 + length]
            changed[place : place + len(part)] = part
            rest = rest[3 + length :]
        return bytes(changed)
    if kind == b"H":
        assert isinstance(SIGNER.key, ec.EllipticCurvePrivateKey)
        signed = encode(["Signature1", rest, b"", MESSAGE.payload])
        r, s = decode_dss_signature(SIGNER.key.sign(signed, ec.ECDSA(SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return encode(Tagged(18, [rest, {}, MESSAGE.payload, signature]))
    return rest


def test_one_input(data: bytes) -> None:
    message = message_of(data)
    try:
        fragment = verify_fragment(message)
    except SidecarError:
        return
    # Whatever verifies was signed by this key, and over this text.
    assert fragment.text == MESSAGE.payload
    if data[:1] != b"H":
        assert parse_sign1(message).protected_raw == MESSAGE.protected_raw


def seed(corpus: Path) -> None:
    """Good inputs to start from."""
    corpus.mkdir(exist_ok=True)
    (corpus / "message").write_bytes(b"M" + GOOD)
    (corpus / "overlay").write_bytes(b"O\x00\x10\x02ab")
    (corpus / "header").write_bytes(b"H" + MESSAGE.protected_raw)


if __name__ == "__main__":
    seed(Path(sys.argv[1]))
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
