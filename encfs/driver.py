"""The driver process of one volume: reads its order, builds the block stack, serves FUSE until unmounted.

Started by the supervisor, never by a user. It never touches the file system that lives on its own device.
Exit code 0 means: unmounted, and every write accepted is in the image.

Protocol on standard output: one line, `ready` or `failed CODE MESSAGE`; log lines go to standard error.

Kind: entry
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from encfs import fuse, residency
from encfs.block.buffers import BufferPool
from encfs.block.device import BlockDevice
from encfs.block.file import adopt_file
from encfs.errors import EncfsError, ExitCode
from encfs.health import Pulse
from encfs.keys import Secret
from encfs.stack import build_stack
from encfs.volume import BlobOrder, DriverOrder, VerityOrder, read_frame

if TYPE_CHECKING:
    from encfs.block.blob import BlobDevice
    from encfs.block.cache import Cache

log = logging.getLogger("encfs.driver")

# Working buffers: one per worker, and two more. A request holds at most two at once, so one can always go on.
_BUFFERS = fuse.WORKERS + 2
# Request buffers of libfuse and pyfuse3's copies of writes: one of each per worker; the rest is for what a
# client of a store allocates and frees again.
_WARM_HEAP = (2 * fuse.WORKERS + 4) * fuse.MAX_REQUEST
_WARM_OBJECTS = 2 << 20
# What httpx loads where it is installed, and a blob never needs: its command line with a terminal library,
# and encodings that are never asked for.
_NOT_NEEDED = ("httpx._main", "brotli", "brotlicffi", "zstandard")
_BEAT_SECONDS = 0.5


def main() -> None:
    """Serve the volume described on standard input."""
    os.umask(0o077)
    os.set_blocking(2, False)  # a supervisor that reads no log must not hold up a write
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    # The terminal's interrupt goes to the whole group; only the supervisor decides when a driver ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    residency.forbid_dumps()
    residency.keep_heap()
    try:
        order, key = read_frame(_read_exactly)
        trio.run(_serve, order, key)
    except Exception as exc:
        error = _known(exc)
        if error is None:
            log.exception("unexpected error")
            sys.exit(ExitCode.INTERNAL)
        print(f"failed {int(error.exit_code)} {error}", flush=True)
        sys.exit(error.exit_code)


def _known(exc: BaseException) -> EncfsError | None:
    """The first of our errors in an exception, or in the group that a nursery makes of it."""
    if isinstance(exc, BaseExceptionGroup):
        return next((found for part in exc.exceptions if (found := _known(part)) is not None), None)
    return exc if isinstance(exc, EncfsError) else None


def _read_exactly(length: int) -> bytes:
    data = sys.stdin.buffer.read(length)
    if len(data) != length:
        raise EncfsError(f"driver order: ends after {len(data)} bytes, wanted {length}")
    return data


async def _serve(order: DriverOrder, key: Secret) -> None:
    pulse = Pulse(order.pulse_fd)
    pool = BufferPool(_BUFFERS, fuse.MAX_REQUEST)
    async with trio.open_nursery() as background:
        background.start_soon(_beat, pulse)
        background.start_soon(_ignore_termination)
        source = await _open_source(order, pulse, background)
        source = _verified(source, order.verity)
        device = source
        try:
            device = await build_stack(source, order.segment, key, pool, read_only=order.read_only)
            await _serve_until_unmounted(device, order, pool, pulse)
        finally:
            with trio.CancelScope(shield=True):
                await device.flush()
                await device.aclose()
            background.cancel_scope.cancel()


async def _serve_until_unmounted(
    device: BlockDevice, order: DriverOrder, pool: BufferPool, pulse: Pulse
) -> None:
    async with trio.open_nursery() as nursery:
        if order.for_tools:
            nursery.start_soon(_end_with_owner, nursery.cancel_scope)
        await nursery.start(_serve_fuse, device, order, pool, pulse, nursery.cancel_scope)
        for refused in residency.hold(heap=_WARM_HEAP, objects=_WARM_OBJECTS):
            log.info("%s: %s", order.name, refused)
        print("ready", flush=True)


def _verified(source: BlockDevice, order: VerityOrder | None) -> BlockDevice:
    """The image, verified where its hash tree is asked for."""
    if order is None:
        return source
    # What other volumes need not hold in memory.
    from encfs.block.verity import Verity
    from encfs.verity.format import BLOCK, Geometry
    from encfs.verity.tree import Tree

    geometry = Geometry.of(order.size // BLOCK)
    tree = Tree(geometry, salt=bytes.fromhex(order.salt), root=bytes.fromhex(order.root))
    return Verity(source, tree)


async def _open_source(order: DriverOrder, pulse: Pulse, background: trio.Nursery) -> BlockDevice:
    if order.blob is not None:
        return await _open_blob(order.blob, pulse, background)
    assert order.image_fd is not None
    return adopt_file(order.image_fd, Path(order.name), read_only=order.read_only, lock=False)


async def _open_blob(order: BlobOrder, pulse: Pulse, background: trio.Nursery) -> BlockDevice:
    for name in _NOT_NEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    # Twelve megabytes that a local image need not load.
    from encfs.blobs import open_ordered
    from encfs.block.cache import serve_cache
    from encfs.block.retry import Retry

    blob = await open_ordered(order)
    background.start_soon(blob.keep_lease)
    cache: Cache = await background.start(serve_cache, Retry(blob, deadline=order.deadline), order.cache)
    background.start_soon(_tell_store, blob, cache, pulse)
    return cache


async def _serve_fuse(
    device: BlockDevice,
    order: DriverOrder,
    pool: BufferPool,
    pulse: Pulse,
    scope: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    await fuse.serve(
        device, Path(order.directory), pool, pulse, cached=order.for_tools, task_status=task_status
    )
    scope.cancel()


async def _beat(pulse: Pulse) -> None:
    while True:
        pulse.beat()
        await trio.sleep(_BEAT_SECONDS)


async def _tell_store(blob: BlobDevice, cache: Cache, pulse: Pulse) -> None:
    while True:
        state = cache.state()
        pulse.tell_blob(blob.lease_state, blob.http.token_expiry)
        pulse.tell_store(state.answered, state.dirty, state.accepted, state.stored, state.failures)
        await trio.sleep(_BEAT_SECONDS)


async def _end_with_owner(scope: trio.CancelScope) -> None:
    """End when the supervisor's end of our standard input closes, which also happens when it is killed."""
    while True:
        await trio.lowlevel.wait_readable(sys.stdin.fileno())
        if not os.read(sys.stdin.fileno(), 1):
            log.info("owner is gone")
            scope.cancel()
            return


async def _ignore_termination() -> None:
    """SIGTERM ends the supervisor, which unmounts; a driver that ended first would lose writes."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("ignoring %s: waiting to be unmounted", signal.Signals(number).name)


if __name__ == "__main__":
    main()
