"""Sector cipher `aes-xts-plain64`, as dm-crypt has it without `iv_large_sectors`.

The tweak of a sector is its number in 512-byte units, counted from the start of the segment and offset by
the segment's `iv_tweak`, as 8 bytes little-endian and 8 zero bytes, whatever the sector size. The judge is
a real kernel (tests/kernel).

Two engines do the same: `_xts`, compiled with the package, one call a request; and `PythonXts` over the
`cryptography` library, the reference, used where no compiler was there. `ENGINE` names the one in use.

Kind: pure
"""

from __future__ import annotations

from typing import Protocol

from encfs.block.device import Buffer
from encfs.errors import UnsupportedHeader
from encfs.keys import Secret

_TWEAK_UNIT = 512
SECTOR_SIZES = (512, 1024, 2048, 4096)
KEY_SIZES = (32, 64)


class Engine(Protocol):
    """AES-XTS with one key over whole sectors; `tweak` is the first sector's, each next one adds `step`."""

    def rekey(self, key: bytes) -> None:
        """Use another key, secret, from now on; one that is refused (`ValueError`) changes nothing."""
        ...

    def encrypt(self, data: Buffer, out: memoryview, sector_size: int, tweak: int, step: int) -> None:
        """Encrypt `data` into `out`, of the same length; they may be one buffer."""
        ...

    def decrypt(self, data: Buffer, out: memoryview, sector_size: int, tweak: int, step: int) -> None:
        """Decrypt `data` into `out`, of the same length; they may be one buffer."""
        ...


class PythonXts:
    """The reference engine: a context of the `cryptography` library for every sector.

    Args:
        key: 32 or 64 bytes, secret.

    Raises:
        ValueError: another length, or two equal halves.
    """

    def __init__(self, key: bytes) -> None:
        self.rekey(key)

    def rekey(self, key: bytes) -> None:
        # Imported here: a driver that has the compiled engine need not hold this library in memory.
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES
        from cryptography.hazmat.primitives.ciphers.modes import XTS

        if len(key) not in KEY_SIZES:
            raise ValueError(f"key is {len(key)} bytes, wanted one of {KEY_SIZES}")
        algorithm = AES(key)

        def cipher(tweak: int) -> Cipher[XTS]:
            return Cipher(algorithm, XTS(tweak.to_bytes(16, "little")))

        cipher(0).encryptor()  # refuses equal halves
        self._cipher = cipher

    def encrypt(self, data: Buffer, out: memoryview, sector_size: int, tweak: int, step: int) -> None:
        view = memoryview(data)
        for start in range(0, len(view), sector_size):
            end = start + sector_size
            self._cipher(tweak).encryptor().update_into(view[start:end], out[start:end])
            tweak += step

    def decrypt(self, data: Buffer, out: memoryview, sector_size: int, tweak: int, step: int) -> None:
        view = memoryview(data)
        for start in range(0, len(view), sector_size):
            end = start + sector_size
            self._cipher(tweak).decryptor().update_into(view[start:end], out[start:end])
            tweak += step


try:
    from encfs._xts import Xts

    ENGINE = "compiled"
    _new_engine: type[Engine] = Xts
except ImportError:
    ENGINE = "python"
    _new_engine = PythonXts


class SectorCipher:
    """AES-XTS over whole sectors of a segment.

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
        if len(key) not in KEY_SIZES:
            raise UnsupportedHeader(f"volume key is {len(key)} bytes, wanted one of {KEY_SIZES}")
        try:
            self._engine = _new_engine(key.reveal())  # type: ignore[call-arg]
        except ValueError as exc:
            raise UnsupportedHeader("volume key has two equal halves, which XTS forbids") from exc
        self.sector_size = sector_size
        self._iv_tweak = iv_tweak
        self._step = sector_size // _TWEAK_UNIT

    def decrypt(self, buffer: memoryview, sector: int) -> None:
        """Decrypt whole sectors in place; `sector` is the number of the first, in units of `sector_size`."""
        self._engine.decrypt(buffer, buffer, self.sector_size, self._tweak(sector), self._step)

    def encrypt(self, data: Buffer, out: memoryview, sector: int) -> None:
        """Encrypt whole sectors of `data` into `out`, of the same length; they may be one buffer."""
        self._engine.encrypt(data, out, self.sector_size, self._tweak(sector), self._step)

    def _tweak(self, sector: int) -> int:
        return self._iv_tweak + sector * self._step
