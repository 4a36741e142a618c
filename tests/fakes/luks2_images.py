"""Images for the LUKS2 tests: bytes in memory, and real `cryptsetup` as the second opinion."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encfs.errors import TruncatedImage
from encfs.keys import Secret
from encfs.luks2.create import FormattedHeader, SeededRandom, format_header, new_volume_key
from encfs.luks2.header import BinaryHeader, HeaderCopy, build_copy, parse_copy
from encfs.luks2.unlock import Read

KEY = bytes(range(1, 33))
IMAGE_SIZE = 2 * 1024 * 1024
DATA_OFFSET = 1024 * 1024


def key() -> Secret:
    """A fixed key of full entropy, as far as anybody can tell."""
    return Secret(KEY, full_entropy=True)


def seeded(purpose: str) -> SeededRandom:
    return SeededRandom(Secret(b"fixed seed of at least 32 bytes for the tests"), purpose)


def reader(image: bytes | bytearray) -> Read:
    """A `read` over bytes in memory that keeps its contract."""

    def read(offset: int, length: int) -> bytes:
        data = bytes(image[offset : offset + length])
        if len(data) != length:
            raise TruncatedImage(f"read of {length} bytes at {offset}, wanted inside {len(image)}")
        return data

    return read


def small_header(**changes: Any) -> FormattedHeader:
    """A header of ours, the same on every call."""
    values: dict[str, Any] = {
        "image_size": IMAGE_SIZE,
        "data_offset": DATA_OFFSET,
        "passphrase": key(),
        "volume_key": new_volume_key(random=seeded("volume key")),
        "random": seeded("header"),
    }
    return format_header(**{**values, **changes})


def small_image(**changes: Any) -> bytearray:
    """An image of ours with that header and zeros as data."""
    size = changes.get("image_size", IMAGE_SIZE)
    return bytearray(small_header(**changes).data.ljust(size, b"\0"))


def json_of(image: bytes | bytearray) -> dict[str, Any]:
    """The metadata of the primary copy as JSON values."""
    size = int.from_bytes(image[8:16], "big")
    loaded = json.loads(parse_copy(bytes(image[:size]), offset=0).json_text)
    assert isinstance(loaded, dict)
    return loaded


def rewrite(
    image: bytearray,
    *,
    text: bytes | None = None,
    binary: Callable[[BinaryHeader], BinaryHeader] = lambda b: b,
    copies: tuple[int, ...] = (0, 1),
) -> None:
    """Replace text or fields of header copies and make their checksums right again."""
    size = int.from_bytes(image[8:16], "big")
    for offset in (size * n for n in copies):
        copy = parse_copy(bytes(image[offset : offset + size]), offset=offset)
        new = HeaderCopy(binary(copy.binary), copy.json_text if text is None else text)
        image[offset : offset + size] = build_copy(new)


def mutate_json(image: bytearray, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply `change` to the metadata of both copies and make their checksums right again."""
    value = json_of(image)
    change(value)
    rewrite(image, text=json.dumps(value, separators=(",", ":")).encode())


def fix_checksum(image: bytearray, offset: int, size: int) -> None:
    """Make the checksum of a copy right after its raw bytes were changed."""
    image[offset + 448 : offset + 512] = bytes(64)
    digest = hashlib.sha256(image[offset : offset + size]).digest()
    image[offset + 448 : offset + 480] = digest


class Cryptsetup:
    """Real `cryptsetup` on files; it needs no device-mapper for what is asked here."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("cryptsetup") is None:
            pytest.skip("no cryptsetup: install the Debian package cryptsetup-bin")
        self.folder = folder
        self.key_file = folder / "key"
        self.key_file.write_bytes(KEY)

    def run(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["cryptsetup", "--batch-mode", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0 or not check, f"cryptsetup {arguments}: {done.stderr}"
        return done

    def format(self, *options: str, size: int = 20 * 1024 * 1024, name: str = "image") -> Path:
        """`luksFormat` with fast parameters; `options` add or override."""
        image = self.folder / name
        with image.open("wb") as file:
            file.truncate(size)
        given = [*options]
        if "--pbkdf" not in given:
            given += ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
        self.run("luksFormat", "--type", "luks2", "--key-file", self.key_file, *given, image)
        return image

    def opens(self, image: Path, key: bytes = KEY, *options: str | Path) -> bool:
        """True when cryptsetup opens a keyslot of the image with the key."""
        offered = self.folder / "offered"
        offered.write_bytes(key)
        done = self.run("open", "--test-passphrase", "--key-file", offered, *options, image, check=False)
        assert done.returncode in (0, 1, 2), done.stderr
        return done.returncode == 0

    def metadata(self, image: Path) -> dict[str, Any]:
        loaded = json.loads(self.run("luksDump", "--dump-json-metadata", image).stdout)
        assert isinstance(loaded, dict)
        return loaded

    def volume_key(self, image: Path, key: bytes = KEY) -> bytes:
        """The volume key, as cryptsetup sees it."""
        offered, out = self.folder / "offered", self.folder / "volume-key"
        offered.write_bytes(key)
        out.unlink(missing_ok=True)
        self.run("luksDump", "--dump-volume-key", "--key-file", offered, "--volume-key-file", out, image)
        return out.read_bytes()
