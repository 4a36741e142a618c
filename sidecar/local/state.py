"""The directory of a cloud in a box: its certificates and keys, its lock, and files written whole.

Strategy: a certificate is made when first asked for and made anew when it is about to end; the root stays
for the life of the directory, so clients trust it once. One process at a time holds the lock.

Rules: directory 0700, keys 0600; nothing is readable half-written.

Kind: adapter
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.errors import UsageError
from sidecar.local.ca import Issued, load_issued

RENEWED_BEFORE = timedelta(days=30)


class StateDirectory:
    """One directory, locked for this process until `close`."""

    def __init__(self, path: Path, now: datetime) -> None:
        """Open or create.

        Raises:
            UsageError: cannot be used, or another process uses it.
        """
        self.path = path
        self._now = now
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise UsageError(f"directory {path}: {exc.strerror or exc}") from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._lock)
            raise UsageError(
                f"directory {path}: in use by another cloud in a box",
                hint="end the other process, or choose another directory",
            ) from exc

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)

    def issued(self, name: str, make: Callable[[], Issued]) -> Issued:
        """The certificate of this name, made or made anew when needed.

        Raises:
            MalformedInput: what is stored does not parse.
        """
        chain, key = self.certificate_path(name), self.key_path(name)
        if chain.exists() and key.exists():
            found = load_issued(chain.read_bytes(), key.read_bytes())
            if found.certificate.not_valid_after_utc - RENEWED_BEFORE > self._now:
                return found
        found = make()
        self.write(key.name, found.key_pem())
        self.write(chain.name, b"".join(c.public_bytes(Encoding.PEM) for c in found.chain), mode=0o644)
        return found

    def certificate_path(self, name: str) -> Path:
        """Where the chain of a certificate lies, leaf first; public."""
        return self.path / f"{name}.pem"

    def key_path(self, name: str) -> Path:
        """Where the private key of a certificate lies."""
        return self.path / f"{name}.key"

    def write(self, name: str, content: bytes, *, mode: int = 0o600) -> Path:
        """Write a file in the directory, whole or not at all."""
        return write_whole(self.path / name, content, mode=mode)


def write_whole(path: Path, content: bytes, *, mode: int = 0o600) -> Path:
    """Write a file so that a reader sees all of it or the old one.

    Raises:
        UsageError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.rename(path)
    except OSError as exc:
        raise UsageError(f"file {path}: {exc.strerror or exc}") from exc
    return path
