"""Sector cipher `aes-xts-plain64`, as dm-crypt has it without `iv_large_sectors`.

The tweak of a sector is its number in 512-byte units, counted from the start of the segment and offset by
the segment's `iv_tweak`, as 8 bytes little-endian and 8 zero bytes, whatever the sector size. The judge is
a real kernel (tests/kernel).

Kind: pure
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from encfs.block.device import Buffer
from encfs.errors import UnsupportedHeader
from encfs.keys import Secret

_TWEAK_UNIT = 512
SECTOR_SIZES = (512, 1024, 2048, 4096)
KEY_SIZES = (32, 64)


class SectorCipher:
    """AES-XTS over whole sectors.

    Args:
        key: volume key, 32 bytes (AES-128) or 64 (AES-256), secret.
        sector_size: bytes, one of `SECTOR_SIZES`.
        iv_tweak: added to every sector number, in 512-byte units.

    Raises:
        UnsupportedHeader: another key or sector size, or a key whose two halves are equal.
    """

    def __init__(self, key: Secret, *, sector_size: int, iv_tweak: int = 0) -> None:
        if sector_size not in SECTOR_SIZES:
            raise UnsupportedHeader(f"sector size is {sector_size} bytes, wanted one of {SECTOR_SIZES}")
        raw = key.reveal()
        if len(raw) not in KEY_SIZES:
            raise UnsupportedHeader(f"volume key is {len(raw)} bytes, wanted one of {KEY_SIZES}")
        self.sector_size = sector_size
        self._algorithm = AES(raw)
        self._iv_tweak = iv_tweak
        self._step = sector_size // _TWEAK_UNIT
        try:
            self._cipher(0).encryptor()
        except ValueError as exc:
            raise UnsupportedHeader("volume key has two equal halves, which XTS forbids") from exc

    def _cipher(self, sector: int) -> Cipher[XTS]:
        number = self._iv_tweak + sector * self._step
        return Cipher(self._algorithm, XTS(number.to_bytes(16, "little")))

    def decrypt(self, buffer: memoryview, sector: int) -> None:
        """Decrypt whole sectors in place; `sector` is the number of the first, in units of `sector_size`."""
        size = self.sector_size
        for start in range(0, len(buffer), size):
            part = buffer[start : start + size]
            self._cipher(sector).decryptor().update_into(part, part)
            sector += 1

    def encrypt(self, data: Buffer, out: memoryview, sector: int) -> None:
        """Encrypt whole sectors of `data` into `out`, of the same length; they may be one buffer."""
        size = self.sector_size
        view = memoryview(data)
        for start in range(0, len(view), size):
            self._cipher(sector).encryptor().update_into(
                view[start : start + size], out[start : start + size]
            )
            sector += 1
