"""Keeps a process's memory in memory, so that serving a write never waits for memory.

A driver that faults in a page, or asks the kernel for more heap, while the kernel is short of memory can be
made to wait for the writeback it is itself serving: a deadlock that no kill ends. The cure, measured:
lock all pages, tell malloc to keep what it has, take what will be needed before serving.

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
_TOP_PAD = 8 << 20


def keep_heap(warm_bytes: int) -> None:
    """Make malloc keep its memory, and take `warm_bytes` of it now.

    Call before the first thread starts: threads made later get small stacks, and share one arena.
    """
    threading.stack_size(_THREAD_STACK)
    _libc.mallopt(_M_ARENA_MAX, 1)
    _libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)  # large blocks come from the heap, which is kept
    _libc.mallopt(_M_TRIM_THRESHOLD, -1 & 0x7FFFFFFF)
    _libc.mallopt(_M_TOP_PAD, _TOP_PAD)
    warm_heap(warm_bytes)


def warm_heap(warm_bytes: int) -> None:
    """Take so much heap and give it back to malloc, which keeps it.

    Call when everything is loaded and open: what is loaded later would take it.
    """
    piece = 1 << 20
    held = [bytearray(piece) for _ in range(warm_bytes // piece)]
    del held


def forbid_dumps() -> None:
    """Keep keys out of core dumps and away from the user's other processes; call before a key is read."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def lock() -> list[str]:
    """Lock all pages, present and future, and mark the process as one that cleans memory.

    Returns:
        What was refused, in words for the log; empty when everything was granted.
    """
    gc.collect()
    gc.freeze()  # what lives now lives on: no collection on the write path walks it
    refused = []
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        refused.append("memory is not locked (needs CAP_IPC_LOCK or a higher RLIMIT_MEMLOCK)")
    if not mark_as_flusher():
        refused.append("not marked as an I/O flusher (needs CAP_SYS_RESOURCE)")
    return refused


def mark_as_flusher() -> bool:
    """Mark the calling thread as one that cleans memory; False when the kernel refuses."""
    return bool(_libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0)
