"""Azurite, Microsoft's blob emulator, as a process of a test run: loopback, ended by its id."""

from __future__ import annotations

import base64
import os
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fakes.blobservice import BlobService
from sidecar.local import ca

MAIN = (
    Path(__file__).parent.parent
    / "azurite"
    / "node_modules"
    / "azurite"
    / "dist"
    / "src"
    / "blob"
    / "main.js"
)
ACCOUNT = "volumes"
_LISTENS = re.compile(r"listens on (https?://127\.0\.0\.1:[0-9]+)")


@contextmanager
def azurite(folder: Path, *, in_memory: bool = True, tls: bool = False) -> Iterator[BlobService]:
    """Run one for as long as the block runs.

    Args:
        folder: where it may leave what it must.
        in_memory: faster, but every put is an extent of its own, and every ten minutes it looks for those
            that nobody needs, and answers nothing for minutes if they are many. On disk, where up to 64 MiB
            of puts share one extent, it is done at once.
        tls: with a certificate under a root of its own, which the service's `tls` and environment trust.
    """
    key = base64.b64encode(os.urandom(32)).decode()
    flags = ["--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    flags += ["--inMemoryPersistence"] if in_memory else ["--location", str(folder)]
    place = ["--blobHost", "127.0.0.1", "--blobPort", "0"]
    trust = _make_certificate(folder) if tls else None
    if trust is not None:
        flags += ["--cert", str(folder / "chain.pem"), "--key", str(folder / "key.pem")]
    process = subprocess.Popen(
        ["node", str(MAIN), *flags, *place],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        while (match := _LISTENS.search(said)) is None:
            line = process.stdout.readline()
            assert line, f"azurite ended with {process.wait(10)}: {said}"
            said += line
        service = BlobService(f"{match.group(1)}/{ACCOUNT}", ACCOUNT, key)
        if trust is not None:
            service.tls = ssl.create_default_context(cafile=trust)
            service.ca_file, service.environment = str(trust), {"SIDECAR_CA_FILE": str(trust)}
        service.make_container()
        yield service
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        process.stdout.close()


def _make_certificate(folder: Path) -> Path:
    """Leave `chain.pem` and `key.pem` for loopback; where their root is."""
    now = datetime.now(UTC)
    root = ca.make_root(now)
    leaf = ca.make_leaf(root, "azurite", now)
    (folder / "chain.pem").write_bytes(leaf.chain_pem())
    (folder / "key.pem").write_bytes(leaf.key_pem())
    path = folder / "root.pem"
    path.write_bytes(root.chain_pem())
    return path
