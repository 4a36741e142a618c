"""The conformance suite of `encfs.block.device`: every source and layer passes it.

A test module calls `check_device` with a factory; the suite drives the device against a plain model.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from encfs.block.device import BlockDevice, read
from encfs.errors import BadRequest, ReadOnlyDevice

Factory = Callable[[], Awaitable[BlockDevice]]


async def check_refusals(make: Factory) -> None:
    """Unaligned and outside requests raise, and change nothing."""
    device = await make()
    unit = device.block_size
    before = await read(device, 0, device.size)
    bad = [(device.size, unit), (device.size - unit, 2 * unit), (-unit, unit)]
    if unit > 1:
        bad += [(1, unit), (0, unit - 1), (unit // 2, unit)]
    for offset, length in bad:
        with pytest.raises(BadRequest):
            await device.read_into(offset, memoryview(bytearray(length)))
        if not device.read_only:
            with pytest.raises(BadRequest):
                await device.write(offset, b"x" * length)
    assert await read(device, 0, device.size) == before
    await device.aclose()


async def check_read_only(make: Factory) -> None:
    """A read-only device refuses every write and keeps its content."""
    device = await make()
    assert device.read_only
    before = await read(device, 0, device.size)
    with pytest.raises(ReadOnlyDevice):
        await device.write(0, b"x" * device.block_size)
    assert await read(device, 0, device.size) == before
    await device.aclose()


def check_against_model(make: Factory, *, examples: int = 40) -> None:
    """Random reads and writes agree with a bytearray; the same again after flush."""

    @settings(max_examples=examples, deadline=None)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        trio.run(_drive, make, data)

    run()


async def _drive(make: Factory, data: st.DataObject) -> None:
    device = await make()
    try:
        await _compare(device, data)
    finally:  # hypothesis gives examples up in the middle
        with trio.CancelScope(shield=True):
            await device.aclose()


async def _compare(device: BlockDevice, data: st.DataObject) -> None:
    unit = device.block_size
    model = bytearray(await read(device, 0, device.size))
    blocks = device.size // unit
    for _ in range(data.draw(st.integers(1, 8))):
        first = data.draw(st.integers(0, blocks - 1))
        count = data.draw(st.integers(1, min(blocks - first, max(1, 9000 // unit))))
        offset, length = first * unit, count * unit
        if data.draw(st.booleans()):
            fill = data.draw(st.binary(min_size=1, max_size=16))
            piece = (fill * (length // len(fill) + 1))[:length]
            await device.write(offset, piece)
            model[offset : offset + length] = piece
        else:
            assert await read(device, offset, length) == model[offset : offset + length]
    await device.flush()
    assert await read(device, 0, device.size) == model
