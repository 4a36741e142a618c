"""Authenticated blocks: what is read is what was written, whatever is changed, cut off or lost."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from fakes.crashstore import CrashStore, PowerLost

from encfs.block.device import read
from encfs.block.integrity import Integrity, open_integrity, split_key
from encfs.block.memory import MemoryDevice
from encfs.errors import MalformedHeader, ReadOnlyDevice, Tampered
from encfs.integrity.format import format_segment
from encfs.integrity.layout import Layout, new_layout
from encfs.keys import Secret

KEY = Secret(bytes(range(96)), full_entropy=True)
SEGMENT = 3 << 20


def small_layout(block_size: int = 4096, device_size: int = 64 << 20, interleave: int = 7) -> Layout:
    return new_layout(SEGMENT, device_size=device_size, block_size=block_size, interleave=interleave)


async def formatted(layout: Layout) -> bytes:
    store = MemoryDevice(bytearray(SEGMENT))
    await format_segment(store, layout, split_key(KEY)[1])
    return bytes(store.data)


async def opened(
    store: CrashStore | MemoryDevice, *, read_only: bool = False, block_size: int = 4096
) -> Integrity:
    return await open_integrity(store, KEY, block_size=block_size, read_only=read_only)


@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("interleave", [5, 7, 10, 15])
@pytest.mark.parametrize("device_size", [16 << 20, 128 << 20])
async def test_agrees_with_a_model(block_size: int, interleave: int, device_size: int) -> None:
    layout = small_layout(block_size, device_size, interleave)
    store = MemoryDevice(bytearray(await formatted(layout)))
    device = await opened(store, block_size=block_size)
    dice = random.Random(block_size + interleave)
    model = bytearray(await read(device, 0, device.size))  # noise, but always the same
    for round_ in range(60):
        first = dice.randrange(layout.blocks)
        count = dice.randint(1, min(layout.blocks - first, 300))
        at, size = first * block_size, count * block_size
        if dice.random() < 0.6:
            data = dice.randbytes(size)
            await device.write(at, data)
            model[at : at + size] = data
        else:
            assert await read(device, at, size) == model[at : at + size], round_
        if dice.random() < 0.2:
            await device.flush()
        if dice.random() < 0.05:
            await device.flush()
            await device.aclose()
            device = await opened(store, block_size=block_size)
    assert await read(device, 0, device.size) == model
    await device.flush()
    await device.aclose()
    again = await opened(store, read_only=True, block_size=block_size)
    assert await read(again, 0, again.size) == model


async def test_a_clean_volume_is_not_written_by_reading() -> None:
    before = await formatted(small_layout())
    store = MemoryDevice(bytearray(before))
    for read_only in (True, False):
        device = await opened(store, read_only=read_only)
        await read(device, 0, device.size)
        await device.flush()
        await device.aclose()
    assert bytes(store.data) == before


async def test_every_changed_block_is_an_error() -> None:
    """A flipped bit in data or tag, a block zeroed or swapped: an error for it; the others stay readable."""
    layout = small_layout(interleave=5)
    store = MemoryDevice(bytearray(await formatted(layout)))
    device = await opened(store)
    data = os.urandom(device.size)
    await device.write(0, data)
    await device.flush()
    await device.aclose()
    image = bytes(store.data)
    dice = random.Random(3)

    def flip(at: int, size: int) -> Callable[[bytearray], None]:
        def change(raw: bytearray) -> None:
            raw[at + dice.randrange(size)] ^= 1 << dice.randrange(8)

        return change

    def zero(at: int, size: int) -> Callable[[bytearray], None]:
        def change(raw: bytearray) -> None:
            raw[at : at + size] = bytes(size)

        return change

    checked = 0
    for block in range(layout.blocks):
        at, tag = layout.data_offset(block), layout.tag_offset(block)
        for change in (flip(at, 4096), flip(tag, 32), zero(at, 4096), zero(tag, 32)):
            raw = bytearray(image)
            change(raw)
            await expect_bad(raw, data, {block})
            checked += 1
    for _ in range(40):
        one, two = dice.sample(range(layout.blocks), 2)
        raw = bytearray(image)
        for place, size in ((layout.data_offset, 4096), (layout.tag_offset, 32)):
            raw[place(one) : place(one) + size] = image[place(two) : place(two) + size]
            raw[place(two) : place(two) + size] = image[place(one) : place(one) + size]
        await expect_bad(raw, data, {one, two})
        checked += 1
    assert checked > 2000


async def test_a_changed_bit_anywhere_in_a_large_volume_is_an_error() -> None:
    """Random places of 192 MiB, with the kernel's areas of 16 MiB and with ours."""
    dice = random.Random(4)
    for interleave in (10, 15):
        segment = 192 << 20
        layout = new_layout(segment, device_size=segment, block_size=4096, interleave=interleave)
        store = MemoryDevice(bytearray(segment))
        await format_segment(store, layout, split_key(KEY)[1])
        device = await opened(store)
        for _ in range(300):
            block = dice.randrange(layout.blocks)
            tag = dice.random() < 0.5
            at = layout.tag_offset(block) if tag else layout.data_offset(block)
            at += dice.randrange(32 if tag else 4096)
            store.data[at] ^= 1 << (bit := dice.randrange(8))
            fresh = await opened(store, read_only=True)
            with pytest.raises(Tampered, match=f"block {block} of the volume"):
                await read(fresh, block * 4096, 4096)
            store.data[at] ^= 1 << bit
            await read(device, block * 4096, 4096)


async def expect_bad(raw: bytearray, data: bytes, bad: set[int]) -> None:
    device = await opened(MemoryDevice(raw), read_only=True)
    for block in bad:
        with pytest.raises(Tampered, match=rf"block {block} of the volume .* does not match its tag"):
            await read(device, block * 4096, 4096)
    for block in {max(0, min(bad) - 1), min(device.size // 4096 - 1, max(bad) + 1)} - bad:
        assert await read(device, block * 4096, 4096) == data[block * 4096 : (block + 1) * 4096]


async def test_old_data_with_its_new_tag_and_the_reverse_are_errors() -> None:
    layout = small_layout()
    store = MemoryDevice(bytearray(await formatted(layout)))
    images = []
    for fill in (b"a", b"b"):
        device = await opened(store)
        await device.write(0, fill * 4096)
        await device.flush()
        await device.aclose()
        images.append(bytes(store.data))
    at, tag = layout.data_offset(0), layout.tag_offset(0)
    for place, size in ((at, 4096), (tag, 32)):
        raw = bytearray(images[1])
        raw[place : place + size] = images[0][place : place + size]
        with pytest.raises(Tampered):
            await read(await opened(MemoryDevice(raw), read_only=True), 0, 4096)


async def test_refusals() -> None:
    image = await formatted(small_layout())
    device = await opened(MemoryDevice(bytearray(image)), read_only=True)
    with pytest.raises(ReadOnlyDevice):
        await device.write(0, bytes(4096))
    damaged = bytearray(image)
    damaged[4096 + 512 * 7 - 1] ^= 1  # a commit id
    with pytest.raises(MalformedHeader, match="commit id"):
        await opened(MemoryDevice(damaged))
    with pytest.raises(MalformedHeader, match="data sectors"):
        await opened(MemoryDevice(bytearray(image + bytes(1 << 20))))


@pytest.mark.parametrize("device_size", [16 << 20, 64 << 20, 256 << 20])
@pytest.mark.parametrize("most", [30, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_power_may_be_lost_at_every_step(device_size: int, most: int) -> None:
    """At every write and flush of many histories, with any sectors of unflushed writes lost.

    Afterwards every block is readable, is no older than what was durable, and nothing that nobody wrote.
    """
    layout = small_layout(device_size=device_size)
    image = await formatted(layout)
    dice = random.Random(device_size)
    lost = 0
    for _history in range(4):
        seed = dice.random()
        whole = CrashStore(image)
        await run(whole, random.Random(seed), layout)
        stops = range(whole.calls) if whole.calls < most else sorted(dice.sample(range(whole.calls), most))
        for stop in stops:
            store = CrashStore(image, stop)
            model = await run(store, random.Random(seed), layout)
            for chance in (0.0, 0.5, 1.0):
                disk = store.after_power_loss(dice, chance)
                for read_only in (True, False):
                    await judge(disk, model, read_only=read_only)
                    lost += 1
            await judge_twice(disk, model, dice)
    assert lost > 300


class Model:
    """What each block may hold: its durable value, and those written since, oldest first."""

    def __init__(self) -> None:
        self.values: dict[int, list[bytes]] = {}

    def write(self, block: int, data: bytes) -> None:
        self.values.setdefault(block, []).append(data)

    def flushed(self) -> None:
        for block, values in self.values.items():
            self.values[block] = values[-1:]


async def run(store: CrashStore, dice: random.Random, layout: Layout) -> Model:
    """A history of writes and flushes, closed or reopened at times, until power is lost."""
    model = Model()
    hot = [dice.randrange(layout.blocks) for _ in range(12)]
    try:
        device = await opened(store)
        for block in hot:
            await device.write(block * 4096, dice.randbytes(4096))
        await device.flush()
        # From here on every block in `hot` has a durable value.
        for block in hot:
            model.write(block, await read(device, block * 4096, 4096))
        model.flushed()
        store.calls = 0
        for _ in range(25):
            step = dice.random()
            if step < 0.65:
                for block in dice.sample(hot, dice.randint(1, 6)):
                    data = dice.randbytes(4096)
                    model.write(block, data)
                    await device.write(block * 4096, data)
            elif step < 0.9:
                await device.flush()
                model.flushed()
            else:
                await device.flush()
                model.flushed()
                await device.aclose()
                device = await opened(store)
        await device.flush()
        model.flushed()
        await device.aclose()
    except PowerLost:
        pass
    return model


async def judge(disk: bytes, model: Model, *, read_only: bool) -> None:
    device = await opened(CrashStore(disk), read_only=read_only)
    for block, values in model.values.items():
        assert await read(device, block * 4096, 4096) in values, block


async def judge_twice(disk: bytes, model: Model, dice: random.Random) -> None:
    """Power is lost again, while the journal is replayed and emptied."""
    for stop in (1, 2, 3, 6):
        store = CrashStore(disk, stop)
        try:
            device = await opened(store)
            await device.aclose()
        except PowerLost:
            pass
        await judge(store.after_power_loss(dice, 0.5), model, read_only=True)
