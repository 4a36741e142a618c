"""The blob service of the cloud in a box as a process, seen by tests like any other blob service."""

from __future__ import annotations

import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fakes.blobservice import BlobService
from sidecar.local.blobs import ACCOUNT


@contextmanager
def local_blobs(directory: Path, snp_directory: Path, *faults: str) -> Iterator[BlobService]:
    """Run a cloud in a box; its blob service, with the container that is there from the start."""
    words = [f"--fault={fault}" for fault in faults]
    words += [f"--directory={directory}", f"--snp-directory={snp_directory}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "local", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("sidecar local: ready"), f"ended with {process.wait(10)}"
        environment = environment_of(directory / "env")
        ca_file = environment["SIDECAR_CA_FILE"]
        tls = ssl.create_default_context(cafile=ca_file)
        key = account_key(directory)
        yield BlobService(environment["BLOB_ENDPOINT"], ACCOUNT, key, tls, ca_file, environment)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        process.stdout.close()


def environment_of(path: Path) -> dict[str, str]:
    """What an environment file for a shell sets."""
    lines = (line.removeprefix("export ").partition("=") for line in path.read_text().splitlines())
    return {name: value.strip("'") for name, _, value in lines}


def account_key(directory: Path) -> str:
    """The account's key, from where the service keeps it."""
    db = sqlite3.connect(directory / "state.sqlite")
    try:
        (key,) = db.execute("select value from settings where name = 'blob:key'").fetchone()
        return str(key)
    finally:
        db.close()
