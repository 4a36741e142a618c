"""Where the passphrase of a volume comes from.

Kind: adapter
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

from encfs.errors import KeyFileError
from encfs.keys import Secret, parse_key_file

_MAX_KEY_FILE = 64 << 10


class KeySource(Protocol):
    """Yields the passphrase that opens a keyslot."""

    async def passphrase(self) -> Secret:
        """The passphrase, secret.

        Raises:
            KeyUnavailable: it could not be had; says why.
        """
        ...


class KeyFile:
    """A key in a file, or on standard input for `-`: 32 raw bytes, 64 hex digits, or a JWK."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def passphrase(self) -> Secret:
        return read_key_file(self.path)


def read_key_file(path: str) -> Secret:
    """Read and recognise a key file.

    Raises:
        KeyFileError: missing, unreadable, too large, or not a key.
    """
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_MAX_KEY_FILE + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(_MAX_KEY_FILE + 1)
    except OSError as exc:
        raise KeyFileError(
            f"key file {path}: {exc.strerror}", hint="make one: head -c 32 /dev/urandom > key.bin"
        ) from exc
    if len(data) > _MAX_KEY_FILE:
        raise KeyFileError(
            f"key file {path}: over {_MAX_KEY_FILE} bytes, wanted 32 bytes, 64 hex digits or a JWK"
        )
    _warn_if_open_to_others(path)
    return parse_key_file(data)


def _warn_if_open_to_others(path: str) -> None:
    """A key file that others may read is still used (it may be a fixed mount), but not in silence."""
    if path != "-" and os.stat(path).st_mode & 0o077:
        print(f"encfs: warning: key file {path} is readable by others, wanted mode 0600", file=sys.stderr)
