"""Atheris target: whatever an image holds, reading and unlocking it ends in our errors, soon, or opens.

Run by tests/encfs/luks2/test_fuzz.py; by hand: `python tests/fuzz/luks2_header.py CORPUS -max_total_time=60`.
The first byte of an input chooses what the rest is: metadata text, changes of members of good metadata, bytes
laid over a good header with its checksums made right again, or a whole image.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import atheris

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["encfs"]):
    from encfs.errors import EncfsError
    from encfs.luks2.describe import describe, to_json
    from encfs.luks2.kdf import KdfLimits
    from encfs.luks2.unlock import read_header, unlock

from fakes.luks2_images import fix_checksum, json_of, key, reader, rewrite, small_image  # noqa: E402

BASE = bytes(small_image())
COPY = 16384
LIMITS = KdfLimits(
    pbkdf2_iterations=1000, argon2_memory_kib=64, argon2_work_kib=256, argon2_cpus=2, keyslots=1
)


def image_of(data: bytes) -> bytearray:
    """Turn an input into an image."""
    kind, rest = data[:1], data[1:]
    image = bytearray(BASE)
    if kind == b"J" and len(rest) < COPY - 4096 and b"\0" not in rest and rest.startswith(b"{"):
        rewrite(image, text=rest)
    elif kind == b"M":
        change_members(image, rest)
    elif kind == b"O":
        overlay(image, rest)
    else:
        image[: len(rest)] = rest
    return image


def change_members(image: bytearray, rest: bytes) -> None:
    """Groups of a place in the metadata (one byte), a kind of value (one byte), and a line with the value."""
    metadata = json_of(image)
    while len(rest) > 2:
        found = places(metadata)
        owner, name = found[rest[0] % len(found)] if found else (metadata, "x")
        line, _, following = rest[2:].partition(b"\n")
        text = line.decode("latin-1")
        if rest[1] % 4 == 0:
            del owner[name]
        elif rest[1] % 4 == 1:
            owner[name] = text
        elif rest[1] % 4 == 2:
            owner[name] = int.from_bytes(line[:9], "big")
        elif isinstance(owner, dict):
            owner[text] = copy.deepcopy(owner[name])
        rest = following
    text_bytes = json.dumps(metadata, separators=(",", ":")).encode()
    if len(text_bytes) < COPY - 4096:
        rewrite(image, text=text_bytes)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, name) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    names = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for name in names:
        found.append((value, name))
        found += places(value[name])
    return found


def overlay(image: bytearray, rest: bytes) -> None:
    """Groups of a place (two bytes), a length (one byte) and that many bytes."""
    while len(rest) > 3:
        place, length = int.from_bytes(rest[:2], "big") % (2 * COPY), rest[2]
        part = rest[3 : 3 + length]
        image[place : place + len(part)] = part
        rest = rest[3 + length :]
    for offset in (0, COPY):
        fix_checksum(image, offset, COPY)


def test_one_input(data: bytes) -> None:
    image = image_of(data)
    try:
        header = read_header(reader(image), len(image))
        describe(header, len(image))
        to_json(header, len(image))
        unlock(header, key(), reader(image), limits=LIMITS)
    except EncfsError:
        return


def seed(corpus: Path) -> None:
    """Good inputs to start from."""
    corpus.mkdir(exist_ok=True)
    text = json.dumps(json_of(bytearray(BASE)), separators=(",", ":")).encode()
    (corpus / "metadata").write_bytes(b"J" + text)
    (corpus / "image").write_bytes(b"I" + BASE[: 2 * COPY])
    for place in range(0, len(places(json_of(bytearray(BASE)))), 3):
        (corpus / f"member{place}").write_bytes(b"M" + bytes([place, 1]) + b"32768")
    (corpus / "overlay").write_bytes(b"O\x00\x10\x08" + bytes(7) + b"\x02")


if __name__ == "__main__":
    seed(Path(sys.argv[1]))
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
