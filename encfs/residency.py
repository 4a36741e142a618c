"""Keeps a process's memory in memory, so that serving a write never waits for memory.

A driver that faults in a page, or asks the kernel for more heap, while the kernel is short of memory can be
made to wait for the writeback it is itself serving: a deadlock that no kill ends. The cure, measured:
lock all pages, tell the allocators to keep what they have, take what will be needed before serving.

There are two allocators: Python's own for objects of up to 512 bytes, in arenas of 1 MiB, and malloc for
the rest. Both have to be warmed. Objects left to malloc as well would cut holes of 1 MiB, the size of a
request, into pieces, until the heap has to grow at an unlucky moment.

glibc and Linux only; every step that is refused is reported, not hidden.

Kind: adapter
"""

from __future__ import annotations

import ctypes
import gc
import resource
import threading

_libc = ctypes.CDLL(None, use_errno=True)

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
# <sys/mman.h>
_MCL_CURRENT = 1
_MCL_FUTURE = 2
# <linux/prctl.h>
_PR_SET_DUMPABLE = 4
_PR_SET_IO_FLUSHER = 57

_THREAD_STACK = 512 << 10
_TOP_PAD = 1 << 20
# An object of this payload takes 64 bytes; pinned this far apart there is one in every arena of 1 MiB.
_PAYLOAD = 30
_OBJECT = 64
_PIN_EVERY = (256 << 10) // _OBJECT
_pinned: list[bytes] = []


def keep_heap() -> None:
    """Make malloc keep its memory.

    Call before the first thread starts: threads made later get small stacks, and share one arena.
    """
    threading.stack_size(_THREAD_STACK)
    _libc.mallopt(_M_ARENA_MAX, 1)
    _libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)  # large blocks come from the heap, which is kept
    _libc.mallopt(_M_TRIM_THRESHOLD, -1 & 0x7FFFFFFF)
    _libc.mallopt(_M_TOP_PAD, _TOP_PAD)


def forbid_dumps() -> None:
    """Keep keys out of core dumps and away from the user's other processes; call before a key is read."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def hold(*, heap: int, objects: int) -> list[str]:
    """Take what will be needed, and lock all pages, present and future.

    Call when everything is loaded and open: what is loaded later would take it. What the set-up took and
    freed, up to a gigabyte for a slow key derivation, goes back first.

    Args:
        heap: bytes of large blocks.
        objects: bytes of small ones.

    Returns:
        What was refused, in words for the log; empty when everything was granted.
    """
    gc.collect()
    _libc.malloc_trim(0)
    _warm_objects(objects)
    _warm_heap(heap)
    gc.freeze()  # what lives now lives on: no collection on the write path walks it
    refused = []
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        refused.append("memory is not locked (needs CAP_IPC_LOCK or a higher RLIMIT_MEMLOCK)")
    if not mark_as_flusher():
        refused.append("not marked as an I/O flusher (needs CAP_SYS_RESOURCE)")
    return refused


def _warm_objects(warm_bytes: int) -> None:
    """Take arenas for so many bytes of small objects; they stay, because an object in each is kept."""
    held = [bytes(_PAYLOAD) for _ in range(warm_bytes // _OBJECT)]
    _pinned.extend(held[::_PIN_EVERY])


def _warm_heap(warm_bytes: int) -> None:
    """Take so much heap and give it back to malloc, which keeps it."""
    piece = 1 << 20
    held = [bytearray(piece) for _ in range(warm_bytes // piece)]
    del held


def mark_as_flusher() -> bool:
    """Mark the calling thread as one that cleans memory; False when the kernel refuses."""
    return bool(_libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0)
