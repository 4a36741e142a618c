"""A file that has its name only when it is whole: written beside it, locked, and renamed at the end.

A partial file whose lock is free belongs to a process that was killed; the next one for that name removes it.

Kind: adapter
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from encfs.errors import ImageError


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[tuple[Path, int]]:
    """A new file beside `path`, mode 0600, gone again unless it was published.

    Yields:
        Its path, and a descriptor open for reading and writing that holds the lock.

    Raises:
        ImageError: it cannot be made.
    """
    prefix = f".{path.name}.partial-"
    try:
        for name in os.listdir(path.parent):
            if name.startswith(prefix):
                _remove_if_dead(path.parent / name)
        partial, fd = _new(path.parent, prefix)
    except OSError as exc:
        raise ImageError(f"image {path}: {exc.strerror}") from exc
    try:
        yield partial, fd
    finally:
        partial.unlink(missing_ok=True)
        os.close(fd)


def publish(partial: Path, path: Path, *, force: bool) -> None:
    """Give the finished file its name in one step, and make the name durable.

    Raises:
        ImageError: the name is taken and `force` is not given, or the folder cannot be written.
    """
    try:
        if force:
            partial.replace(path)
        else:
            os.link(partial, path)  # unlike rename, fails when the name was taken meanwhile
    except OSError as exc:
        raise ImageError(f"image {path}: {exc.strerror}") from exc
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _new(folder: Path, prefix: str) -> tuple[Path, int]:
    """Make a file and lock it; again when somebody's clean-up took it in between."""
    while True:
        partial = folder / f"{prefix}{secrets.token_hex(4)}"
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink == 1:
                return partial, fd
        os.close(fd)


def _remove_if_dead(partial: Path) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(partial, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            partial.unlink()
        finally:
            os.close(fd)
