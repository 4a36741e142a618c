"""Every source and every layer against the one contract."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.device_contract import Factory, check_against_model, check_read_only, check_refusals

from encfs.block.buffers import BufferPool
from encfs.block.crypt import Crypt
from encfs.block.device import BlockDevice
from encfs.block.file import open_file
from encfs.block.memory import MemoryDevice
from encfs.block.readonly import ReadOnly
from encfs.block.unaligned import Unaligned
from encfs.block.window import Window
from encfs.cipher import SectorCipher
from encfs.errors import BadRequest, ImageBusy, ImageMissing, TruncatedImage
from encfs.keys import Secret

SIZE = 64 << 10
KEY = Secret(bytes(range(64)))


def noise(size: int = SIZE) -> bytearray:
    return bytearray(os.urandom(size))


def make_file(size: int = SIZE) -> Path:
    handle, name = tempfile.mkstemp()
    os.write(handle, noise(size))
    os.close(handle)
    return Path(name)


async def memory() -> BlockDevice:
    return MemoryDevice(noise())


async def file() -> BlockDevice:
    path = make_file()
    device = open_file(path, read_only=False)
    path.unlink()
    return device


async def window() -> BlockDevice:
    return Window(MemoryDevice(noise(2 * SIZE)), offset=SIZE // 2, size=SIZE)


async def crypt_4096() -> BlockDevice:
    return Crypt(MemoryDevice(noise()), SectorCipher(KEY, sector_size=4096), BufferPool(2, 4096))


async def crypt_512() -> BlockDevice:
    return Crypt(MemoryDevice(noise()), SectorCipher(KEY, sector_size=512), BufferPool(2, 8192))


async def unaligned() -> BlockDevice:
    return Unaligned(MemoryDevice(noise(), block_size=4096), BufferPool(2, 8192))


async def whole_stack() -> BlockDevice:
    pool = BufferPool(4, 8192)
    below = Window(MemoryDevice(noise(2 * SIZE)), offset=SIZE, size=SIZE)
    return Unaligned(Crypt(below, SectorCipher(KEY, sector_size=4096), pool), pool)


FACTORIES: dict[str, Factory] = {
    factory.__name__: factory
    for factory in (memory, file, window, crypt_4096, crypt_512, unaligned, whole_stack)
}


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
def test_agrees_with_a_model(make: Factory) -> None:
    check_against_model(make)


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
async def test_refuses_bad_requests(make: Factory) -> None:
    await check_refusals(make)


async def test_read_only_refuses_writes() -> None:
    async def read_only_memory() -> BlockDevice:
        return MemoryDevice(noise(), read_only=True)

    async def read_only_layer() -> BlockDevice:
        return ReadOnly(MemoryDevice(noise()))

    async def read_only_file() -> BlockDevice:
        path = make_file()
        device = open_file(path, read_only=True)
        path.unlink()
        return device

    for make in (read_only_memory, read_only_layer, read_only_file):
        await check_read_only(make)
        await check_refusals(make)


@pytest.mark.parametrize(("offset", "size"), [(100, 512), (0, 100), (0, 2 * SIZE), (SIZE, 512), (-512, 512)])
def test_window_must_fit(offset: int, size: int) -> None:
    with pytest.raises(BadRequest):
        Window(MemoryDevice(noise()), offset=offset, size=size)


async def test_unaligned_writes_to_one_block_do_not_lose_each_other() -> None:
    """Two tasks change different bytes of one block at once, with a device that yields in the middle."""
    import trio

    class Slow(MemoryDevice):
        async def read_into(self, offset: int, buffer: memoryview) -> None:
            await super().read_into(offset, buffer)
            await trio.lowlevel.checkpoint()

    below = Slow(bytearray(8192), block_size=4096)
    device = Unaligned(below, BufferPool(8, 8192))
    async with trio.open_nursery() as nursery:
        for position in range(64):
            nursery.start_soon(device.write, position * 10, bytes([position + 1]) * 10)
        nursery.start_soon(device.write, 4096, b"z" * 4096)
    assert below.data[:640] == b"".join(bytes([i + 1]) * 10 for i in range(64))
    assert below.data[4096:] == b"z" * 4096


class TestFile:
    def test_second_writer_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "image"
        path.write_bytes(noise())
        first = open_file(path, read_only=False)
        for read_only in (False, True):
            with pytest.raises(ImageBusy) as caught:
                open_file(path, read_only=read_only)
            assert caught.value.hint
        first.close()
        open_file(path, read_only=False).close()

    def test_readers_share(self, tmp_path: Path) -> None:
        path = tmp_path / "image"
        path.write_bytes(noise())
        readers = [open_file(path, read_only=True) for _ in range(3)]
        with pytest.raises(ImageBusy):
            open_file(path, read_only=False)
        for reader in readers:
            reader.close()

    @pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()], ids=["missing", "directory"])
    def test_not_a_file(self, tmp_path: Path, make: Callable[[Path], None]) -> None:
        make(tmp_path / "image")
        with pytest.raises(ImageMissing, match="image"):
            open_file(tmp_path / "image", read_only=True)

    def test_read_exactly_takes_any_range_and_knows_the_end(self, tmp_path: Path) -> None:
        content = noise()
        path = tmp_path / "image"
        path.write_bytes(content)
        device = open_file(path, read_only=True)
        for offset, length in [(0, 0), (0, 1), (511, 2), (4095, 4098), (SIZE - 1, 1), (0, SIZE)]:
            assert device.read_exactly(offset, length) == content[offset : offset + length]
        with pytest.raises(TruncatedImage):
            device.read_exactly(SIZE - 1, 2)
        device.close()
