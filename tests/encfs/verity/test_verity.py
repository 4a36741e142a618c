"""dm-verity: veritysetup takes what we make, we take what it makes, and no changed bit is ever served."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encfs.block.device import read
from encfs.block.memory import MemoryDevice
from encfs.block.verity import Verity
from encfs.errors import BadRequest, ImageError, ReadOnlyDevice, Tampered
from encfs.verity.build import Builder
from encfs.verity.format import (
    BLOCK,
    FAN_OUT,
    Geometry,
    Superblock,
    build_superblock,
    geometry_of_file,
    parse_root_hash,
    parse_superblock,
)
from encfs.verity.tree import Tree

SALT = bytes(range(32))
SIZES = [1, 2, 127, 128, 129, 1221, FAN_OUT * FAN_OUT, FAN_OUT * FAN_OUT + 1]


def sealed(data: bytes, salt: bytes = SALT) -> tuple[bytes, bytes]:
    """Image, superblock and tree in one, and the root hash."""
    geometry = Geometry.of(len(data) // BLOCK)
    whole = bytearray(geometry.file_size)
    whole[: len(data)] = data
    whole[len(data) : len(data) + BLOCK] = build_superblock(Superblock(geometry.data_blocks, salt, bytes(16)))
    builder = Builder(geometry, salt)
    for start in range(0, len(data), 100 * BLOCK):
        for offset, part in builder.add(data[start : start + 100 * BLOCK]):
            whole[offset : offset + len(part)] = part
    for offset, part in builder.finish():
        whole[offset : offset + len(part)] = part
    return bytes(whole), builder.root


def layer(image: bytes, root: bytes, salt: bytes = SALT, **more: int) -> Verity:
    tree = Tree(geometry_of_file(len(image)), salt=salt, root=root, **more)
    return Verity(MemoryDevice(bytearray(image), block_size=512), tree)


def content(blocks: int) -> bytes:
    return random.Random(blocks).randbytes(blocks * BLOCK)


@pytest.mark.parametrize("salt", [b"", SALT, bytes(256)])
@pytest.mark.parametrize("blocks", SIZES[:6])
def test_veritysetup_takes_ours(tmp_path: Path, blocks: int, salt: bytes) -> None:
    image, root = sealed(content(blocks), salt)
    path = tmp_path / "x"
    path.write_bytes(image)
    offset = f"--hash-offset={blocks * BLOCK}"
    words = ["/usr/sbin/veritysetup", "verify", path, path, root.hex(), offset]
    subprocess.run(words, check=True, timeout=30)
    path.write_bytes(bytes([image[0] ^ 1]) + image[1:])
    assert subprocess.run(words, capture_output=True, timeout=30).returncode != 0


@pytest.mark.parametrize("blocks", SIZES[:6])
async def test_we_take_veritysetups(tmp_path: Path, blocks: int) -> None:
    data = content(blocks)
    path = tmp_path / "x"
    path.write_bytes(data)
    words = ["/usr/sbin/veritysetup", "format", path, path, f"--hash-offset={len(data)}"]
    words.append(f"--data-blocks={blocks}")
    said = subprocess.run(words, check=True, capture_output=True, text=True, timeout=30).stdout
    root = parse_root_hash(re.search(r"Root hash:\s+(\w+)", said)[1])  # type: ignore[index]
    image = path.read_bytes()
    superblock = parse_superblock(image[len(data) : len(data) + 512])
    assert superblock.data_blocks == blocks == geometry_of_file(len(image)).data_blocks
    assert build_superblock(superblock) == image[len(data) : len(data) + BLOCK]
    assert await read(layer(image, root, superblock.salt), 0, len(data)) == data
    assert sealed(data, superblock.salt)[0][len(data) + BLOCK :] == image[len(data) + BLOCK :]


@pytest.mark.parametrize("blocks", SIZES)
async def test_reads_what_was_sealed(blocks: int) -> None:
    data = content(blocks)
    image, root = sealed(data)
    device = layer(image, root, cache_blocks=1)
    dice = random.Random(1)
    for _ in range(50):
        first = dice.randrange(blocks)
        count = dice.randint(1, min(256, blocks - first))
        assert (
            await read(device, first * BLOCK, count * BLOCK) == data[first * BLOCK : (first + count) * BLOCK]
        )


@pytest.mark.parametrize("blocks", [1, 2, 129, FAN_OUT * FAN_OUT + 1])
async def test_no_changed_bit_is_served(blocks: int) -> None:
    """Every block of image and tree in turn; the reader gets an error that names it, and no data."""
    data = content(blocks)
    image, root = sealed(data)
    dice = random.Random(2)
    total = len(image) // BLOCK
    spots = range(total) if total < 200 else [*dice.sample(range(total), 6), total - 1, blocks + 1]
    for block in spots:
        if block == blocks:  # the superblock; bound by the root hash or refused by its parser
            continue
        at = block * BLOCK + dice.randrange(BLOCK)
        device = layer(image[:at] + bytes([image[at] ^ 1 << dice.randrange(8)]) + image[at + 1 :], root)
        caught = ""
        for start in range(0, blocks, 256):
            buffer = memoryview(bytearray(b"x" * min(256, blocks - start) * BLOCK))
            try:
                await device.read_into(start * BLOCK, buffer)
            except Tampered as exc:
                caught = str(exc)
                assert not any(buffer)
                break
            assert buffer == data[start * BLOCK : start * BLOCK + len(buffer)]
        assert "does not match the root hash" in caught, block
        # A hash block's unused rest and padding are covered by its parent's digest too.
        assert f"block {block} " in caught if block < blocks else "hash block" in caught, caught


async def test_swapped_and_replayed_blocks_are_caught() -> None:
    data = content(300)
    image, root = sealed(data)
    swapped = image[BLOCK : 2 * BLOCK] + image[:BLOCK] + image[2 * BLOCK :]
    other, other_root = sealed(content(301)[: 300 * BLOCK])
    for changed in (swapped, other, data + other[len(data) :]):
        with pytest.raises(Tampered):
            await read(layer(changed, root), 0, BLOCK)
    with pytest.raises(Tampered):
        await read(layer(image, other_root), 0, BLOCK)
    with pytest.raises(Tampered):
        await read(layer(image, root, SALT[:-1]), 0, BLOCK)


async def test_is_read_only_and_says_what_does_not_fit() -> None:
    image, root = sealed(content(3))
    device = layer(image, root)
    with pytest.raises(ReadOnlyDevice):
        await device.write(0, bytes(BLOCK))
    with pytest.raises(BadRequest):
        await read(device, 512, 512)
    with pytest.raises(BadRequest):
        await read(device, 3 * BLOCK, BLOCK)  # superblock and tree are not part of it
    with pytest.raises(BadRequest, match="bytes below"):
        Verity(
            MemoryDevice(bytearray(image[:-BLOCK]), block_size=512),
            Tree(Geometry.of(3), salt=SALT, root=root),
        )


@given(st.integers(1, 1 << 40))
def test_a_files_size_tells_its_geometry(blocks: int) -> None:
    geometry = Geometry.of(blocks)
    assert geometry_of_file(geometry.file_size) == geometry
    with pytest.raises(ImageError, match="which no image with a verity tree is"):
        geometry_of_file(geometry.file_size + 512)


@given(st.integers(1, 1 << 50), st.binary(max_size=256), st.binary(min_size=16, max_size=16))
def test_superblock_round_trip(blocks: int, salt: bytes, uuid: bytes) -> None:
    superblock = Superblock(blocks, salt, uuid)
    data = build_superblock(superblock)
    assert len(data) == BLOCK
    assert parse_superblock(data[:512]) == superblock


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"x"),
        (8, b"\2"),
        (12, b"\0"),
        (32, b"sha512"),
        (65, b"\2"),
        (69, b"\2"),
        (80, b"\1\2"),
        (82, b"\1"),
        (130, b"1"),
        (400, b"1"),
    ],
)
def test_another_superblock_is_refused(offset: int, value: bytes) -> None:
    data = bytearray(build_superblock(Superblock(3, SALT, os.urandom(16)))[:512])
    data[offset : offset + len(value)] = value
    with pytest.raises(ImageError, match="verity superblock: "):
        parse_superblock(bytes(data))


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "a b" * 32])
def test_what_is_no_root_hash(text: str) -> None:
    with pytest.raises(ImageError, match="wanted 64 hex digits"):
        parse_root_hash(text)
