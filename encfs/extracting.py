"""`encfs extract`: all files of an image into a folder, by debugfs on our FUSE file; no mount, no root.

Where not even FUSE is to be had, debugfs reads a copy of the plaintext in memory.

Kind: composition
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

from encfs.blobs import BlobAccess
from encfs.errors import FileSystemError, UsageError
from encfs.exposing import exposed, run_tool
from encfs.inmemory import in_memory
from encfs.keys import Secret
from encfs.opening import UnlockOptions, open_volume

# What debugfs says of every file when an ordinary user extracts files of others; --help says so too.
_EXPECTED = ("while changing ownership",)


async def extract(
    image: Path | BlobAccess,
    directory: Path,
    passphrase: Secret,
    options: UnlockOptions,
    *,
    memory: bool = False,
) -> int:
    """Copy everything out; the number of entries. `memory`: through a copy in memory instead of FUSE.

    Raises:
        UsageError: the folder is not empty, or cannot be made.
        FileSystemError: something could not be copied.
    """
    _prepare(directory)
    volume = await open_volume(image, passphrase, read_only=True, options=options)
    async with in_memory(volume) if memory else exposed(volume) as data:
        code, output = await run_tool("debugfs", "-R", f'rdump / "{directory.resolve()}"', str(data))
    complaints = [line for line in output.splitlines()[1:] if line.strip() and not line.endswith(_EXPECTED)]
    complaints = [line for line in complaints if not any(words in line for words in _EXPECTED)]
    if code != 0 or complaints:
        raise FileSystemError(
            f"image {image}: extracting failed: {complaints[0] if complaints else f'exit code {code}'}",
            hint="check the image: encfs check",
        )
    return await trio.to_thread.run_sync(lambda: sum(len(n) + len(f) for _, n, f in os.walk(directory)))


def _prepare(directory: Path) -> None:
    if '"' in str(directory.resolve()):
        raise UsageError(f"directory {directory}: a name with a double quote cannot be used")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(
                f"directory {directory}: not empty", hint="choose a new one; nothing is replaced"
            )
    except OSError as exc:
        raise UsageError(f"directory {directory}: {exc.strerror}") from exc
