"""A file replaced whole or not at all.

Kind: adapter
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sidecar.errors import UsageError


def replace_file(path: Path, before: bytes, after: bytes) -> None:
    """Replace a file's content; its mode stays, and a reader sees the old content or the new one.

    Args:
        path: the file; a symbolic link is followed.
        before: the content that `after` was made from.
        after: the new content.

    Raises:
        UsageError: the file cannot be written, or was changed by somebody else meanwhile.
    """
    target = Path(os.path.realpath(path))
    name = None
    try:
        if target.read_bytes() != before:
            raise UsageError(f"file {path}: was changed meanwhile; nothing was written", hint="run it again")
        fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, target.stat().st_mode & 0o7777)
            file.write(after)
            file.flush()
            os.fsync(fd)
        os.replace(name, target)
        name = None
    except OSError as exc:
        raise UsageError(f"file {path}: {exc.strerror}") from exc
    finally:
        if name is not None:
            os.unlink(name)
