"""The wrapping key: our RSA pair that a vault encrypts a released key to, and the two-step wrap itself.

Strategy: the vault draws a random AES key, encrypts it to our public key with RSA-OAEP, and appends the key
material wrapped under that AES key with RFC 5649. The public half travels to the vault inside the
attestation token, as the runtime data that `report_data` of the SNP report commits to; so only this guest
can unwrap the answer.

Rules: the private half stays in this object, shows in no `repr` and cannot be pickled; a failed unwrap says
nothing about which step failed; there is no default for `enc`, because the services' own default is SHA-1.

Spec: RFC 8017 section 7.1 (OAEP), RFC 5649; PKCS #11 v3.0 section 2.1.21 (CKM_RSA_AES_KEY_WRAP).

Kind: pure
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jwk import Jwk, jwk_of_public
from sidecar.strictjson import dump_json

AES_KEY_SIZE = 32  # bytes; what services use by convention
_AES_KEY_SIZES = (16, 24, 32)
# PKCS#8 of an 8192-bit RSA key has some 4.6 KiB.
MAX_MATERIAL = 16 << 10
WRAPPING_BITS = range(2048, 4097, 8)


class WrapAlgorithm(StrEnum):
    """Wire words of `enc`: they differ in the OAEP hash only (MGF1 uses the same one)."""

    SHA1 = "CKM_RSA_AES_KEY_WRAP"  # what the services do when no `enc` is sent
    SHA256 = "RSA_AES_KEY_WRAP_256"
    SHA384 = "RSA_AES_KEY_WRAP_384"


_OAEP_HASH: dict[WrapAlgorithm, hashes.HashAlgorithm] = {
    WrapAlgorithm.SHA1: hashes.SHA1(),  # noqa: S303 - the wire format's word; we never ask for it
    WrapAlgorithm.SHA256: hashes.SHA256(),
    WrapAlgorithm.SHA384: hashes.SHA384(),
}


def parse_enc(word: str) -> WrapAlgorithm:
    """The `enc` word as a value; MalformedInput for any other."""
    try:
        return WrapAlgorithm(word)
    except ValueError:
        raise MalformedInput(f"enc is {word[:64]!r}, wanted one of {', '.join(WrapAlgorithm)}") from None


class WrappingKey:
    """An RSA pair made for one guest; the private half never leaves it."""

    __slots__ = ("_private", "jwk", "kid")

    def __init__(self, private: rsa.RSAPrivateKey) -> None:
        self._private = private
        public = jwk_of_public(private.public_key())
        self.kid: str = public.thumbprint()
        # `encrypt` is what the vault looks for when it chooses the key to wrap to.
        self.jwk: Jwk = jwk_of_public(private.public_key(), kid=self.kid, key_ops=("encrypt",))

    @classmethod
    def generate(cls, bits: int = 2048) -> WrappingKey:
        """Draw a new pair. Takes tens of milliseconds at 2048 bits, seconds at 4096: do it in a thread.

        Raises:
            MalformedInput: a size that the services are not known to take.
        """
        if bits not in WRAPPING_BITS:
            raise MalformedInput(f"wrapping key of {bits} bits, wanted 2048 to 4096 in steps of 8")
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=bits))

    def runtime_data(self) -> bytes:
        """The runtime data for the attestation: a key set with our public key only. Public JSON."""
        return dump_json({"keys": [self.jwk.to_dict()]})

    def unwrap(self, ciphertext: bytes, enc: WrapAlgorithm) -> bytes:
        """Key material, secret; errors as `unwrap_key_material`."""
        return unwrap_key_material(self._private, ciphertext, enc)

    def __repr__(self) -> str:
        return f"WrappingKey(kid={self.kid!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a wrapping key cannot be pickled")


def wrap_key_material(public_key: rsa.RSAPublicKey, material: bytes, enc: WrapAlgorithm) -> bytes:
    """Wrap key material, as the vault does.

    Args:
        public_key: the guest's wrapping key.
        material: 1 byte to 16 KiB, secret.
        enc: which OAEP hash.

    Returns:
        modulus-length bytes of RSA-OAEP, then the wrapped material; public.

    Raises:
        MalformedInput: material of another size.
    """
    if not 1 <= len(material) <= MAX_MATERIAL:
        raise MalformedInput(f"key material of {len(material)} bytes, wanted 1 to {MAX_MATERIAL}")
    transport = os.urandom(AES_KEY_SIZE)
    return public_key.encrypt(transport, _oaep(enc)) + aes_key_wrap_with_padding(transport, material)


def unwrap_key_material(private_key: rsa.RSAPrivateKey, ciphertext: bytes, enc: WrapAlgorithm) -> bytes:
    """Unwrap key material.

    Args:
        private_key: our wrapping key.
        ciphertext: as `wrap_key_material` returns it; from outside.
        enc: which OAEP hash.

    Returns:
        the key material, secret.

    Raises:
        MalformedInput: a length that cannot be right, found before any key is used.
        VerificationFailed: made for another key, with another `enc`, or damaged.
    """
    modulus = (private_key.key_size + 7) // 8
    # RFC 5649: an 8-byte integrity block, then the material padded to whole 8-byte blocks.
    wrapped = len(ciphertext) - modulus
    if not 16 <= wrapped <= MAX_MATERIAL + 8 or wrapped % 8:
        raise MalformedInput(
            f"wrapped key of {len(ciphertext)} bytes, "
            f"wanted {modulus} and then 16 to {MAX_MATERIAL + 8} in steps of 8"
        )
    try:
        transport = private_key.decrypt(ciphertext[:modulus], _oaep(enc))
        if len(transport) not in _AES_KEY_SIZES:
            raise ValueError("no AES key")
        return aes_key_unwrap_with_padding(transport, ciphertext[modulus:])
    except (ValueError, InvalidUnwrap):
        # One sentence for every cause, and no chained error: no oracle, nothing of the plaintext.
        raise VerificationFailed(
            "wrapped key: does not unwrap under our wrapping key",
            hint="the answer was made for another guest or another request, or was changed on its way",
        ) from None


def _oaep(enc: WrapAlgorithm) -> padding.OAEP:
    hashed = _OAEP_HASH[enc]
    return padding.OAEP(mgf=padding.MGF1(hashed), algorithm=hashed, label=None)
