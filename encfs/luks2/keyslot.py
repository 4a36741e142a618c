"""A keyslot's area: the volume key, split, encrypted under a key derived from the passphrase.

Opening never fails on a wrong passphrase: it yields a candidate, and only the digest can tell.

Kind: pure

Spec: LUKS2 1.1.4, sections 4.2 and 4.3. The area is encrypted as dm-crypt would do it with sectors of
512 bytes, numbered from 0 at the start of the area.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from encfs.errors import ForbiddenCipher, MalformedHeader
from encfs.keys import Secret
from encfs.luks2 import af, kdf
from encfs.luks2.metadata import DIGEST_SIZES, INTEGRITY_KEY_SIZE, Digest, Keyslot

SECTOR_SIZE = 512  # bytes


def open_keyslot(slot: Keyslot, material: bytes, passphrase: Secret) -> Secret:
    """Derive the candidate volume key.

    Args:
        slot: parameters, whose cost the caller has checked.
        material: the first `slot.material_size` bytes of the area.
        passphrase: secret.

    Returns:
        `slot.key_size` bytes, secret; garbage when the passphrase is wrong.

    Raises:
        MalformedHeader: material of another length.
        KdfCostTooHigh: argon2 could not get its memory.
    """
    if len(material) != slot.material_size:
        raise MalformedHeader(f"keyslot area: {len(material)} bytes, wanted {slot.material_size}")
    area_key = kdf.derive(slot.kdf, passphrase, slot.area.key_size)
    split = _decrypt(area_key, material)
    key = af.merge(split, key_size=slot.key_size, hash_name=slot.af_hash)
    return Secret(key, full_entropy=True)


def seal_keyslot(
    slot: Keyslot, volume_key: Secret, passphrase: Secret, random: Callable[[int], bytes]
) -> bytes:
    """Fill a keyslot's area; the inverse of `open_keyslot`.

    Returns:
        `slot.material_size` bytes, safe to store.
    """
    area_key = kdf.derive(slot.kdf, passphrase, slot.area.key_size)
    split = af.split(volume_key.reveal(), hash_name=slot.af_hash, random=random)
    return _encrypt(area_key, split)


def make_digest(
    volume_key: Secret, *, keyslots: tuple[int, ...], salt: bytes, hash_name: str, iterations: int
) -> Digest:
    """The digest object that confirms a volume key for segment 0."""
    value = _digest(volume_key, hash_name, salt, iterations, DIGEST_SIZES[hash_name])
    return Digest(keyslots, (0,), hash_name, iterations, salt, value)


def confirms(digest: Digest, candidate: Secret) -> bool:
    """True when the candidate is the volume key that the digest was made of."""
    seen = _digest(candidate, digest.hash, digest.salt, digest.iterations, len(digest.digest))
    return hmac.compare_digest(seen, digest.digest)


def check_xts_key(key: Secret) -> None:
    """Refuse an XTS key whose two halves are equal, which no random generator makes.

    With equal halves the tweak is encrypted under the data key, and chosen plaintext reveals it.

    Raises:
        ForbiddenCipher: they are.
    """
    data = key.reveal()
    if len(data) == INTEGRITY_KEY_SIZE:
        data = data[:64]  # the rest is the MAC key
    half = len(data) // 2
    if hmac.compare_digest(data[:half], data[half:]):
        raise ForbiddenCipher(
            "volume key: its two halves are equal, wanted two independent keys",
            hint="this image was made with a broken or malicious generator; do not use it",
        )


def _digest(key: Secret, hash_name: str, salt: bytes, iterations: int, size: int) -> bytes:
    return hashlib.pbkdf2_hmac(hash_name, key.reveal(), salt, iterations, size)


def _decrypt(key: bytes, data: bytes) -> bytes:
    return b"".join(
        _sector(key, number).decryptor().update(data[start : start + SECTOR_SIZE])
        for number, start in enumerate(range(0, len(data), SECTOR_SIZE))
    )


def _encrypt(key: bytes, data: bytes) -> bytes:
    return b"".join(
        _sector(key, number).encryptor().update(data[start : start + SECTOR_SIZE])
        for number, start in enumerate(range(0, len(data), SECTOR_SIZE))
    )


def _sector(key: bytes, number: int) -> Cipher[modes.XTS]:
    return Cipher(algorithms.AES(key), modes.XTS(number.to_bytes(16, "little")))
