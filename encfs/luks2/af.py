"""The anti-forensic splitter: a key blown up so that losing any part of it loses it all.

`split` makes `stripes` blocks of the key's size, all but the last one random; `merge` needs every one of
them. Diffusion is a hash over each digest-sized piece of the block, prefixed with the piece's number.

Kind: pure

Spec: LUKS1 On-Disk Format Specification, version 1.2.3, section 2.4 (anti-forensic splitting), which
LUKS2 1.1.4 section 3.2.4 refers to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from encfs.errors import MalformedHeader

STRIPES = 4000  # LUKS2 1.1.4, section 3.2.4: the only value supported


def split(key: bytes, *, stripes: int = STRIPES, hash_name: str, random: Callable[[int], bytes]) -> bytes:
    """Blow up a key.

    Args:
        key: the key, secret.
        stripes: number of blocks, at least 1.
        hash_name: hash of the diffusion, as hashlib names it.
        random: source of random bytes; what it gives becomes part of the secret.

    Returns:
        `len(key) * stripes` bytes, secret.
    """
    size = len(key)
    filler = random(size * (stripes - 1))
    mixed = _mix(filler, size, hash_name)
    return filler + _xor(mixed, key)


def merge(material: bytes, *, key_size: int, stripes: int = STRIPES, hash_name: str) -> bytes:
    """Recover the key from its split form.

    Args:
        material: `key_size * stripes` bytes, secret.
        key_size: bytes of the key.

    Returns:
        The key, `key_size` bytes, secret; garbage when the material is damaged.

    Raises:
        MalformedHeader: material has another length.
    """
    if key_size <= 0 or stripes <= 0 or len(material) != key_size * stripes:
        raise MalformedHeader(f"split key of {len(material)} bytes, wanted {key_size} times {stripes}")
    last = len(material) - key_size
    return _xor(_mix(material[:last], key_size, hash_name), material[last:])


def _mix(blocks: bytes, size: int, hash_name: str) -> bytes:
    state = bytes(size)
    for start in range(0, len(blocks), size):
        state = _diffuse(_xor(state, blocks[start : start + size]), hash_name)
    return state


def _diffuse(block: bytes, hash_name: str) -> bytes:
    step = hashlib.new(hash_name).digest_size
    pieces = []
    for number, start in enumerate(range(0, len(block), step)):
        piece = block[start : start + step]
        digest = hashlib.new(hash_name, number.to_bytes(4, "big") + piece).digest()
        pieces.append(digest[: len(piece)])
    return b"".join(pieces)


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")
