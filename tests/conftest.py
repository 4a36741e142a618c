"""Shared fixtures, and two rules.

An unexpected log record at WARNING or above fails the test. A test whose marker needs something this machine
lacks (FUSE, root, an emulator) is skipped with the missing thing named; in CI it fails.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.azurite import azurite as run_azurite
from fakes.blobservice import BlobService
from fakes.localblobs import local_blobs
from fakes.needs import refuse_lacking
from guest.machine import Guest, prepare

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    refuse_lacking([mark.name for mark in item.iter_markers()], ci=os.environ.get("CI") == "true")


@pytest.fixture(scope="session")
def guest() -> Guest:
    """A real kernel under emulation; tests that take it carry the marker `kernel`."""
    return prepare()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlobService]:
    """Microsoft's blob emulator; tests that take it carry the marker `azurite`."""
    with run_azurite(tmp_path_factory.mktemp("azurite")) as service:
        yield service


@pytest.fixture(scope="session")
def local_blob_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlobService]:
    """The blob service of a cloud in a box, a process of its own."""
    folder = tmp_path_factory.mktemp("local-blobs")
    with local_blobs(folder / "cloud", folder / "snp") as service:
        yield service


@pytest.fixture
def root() -> Path:
    """Top of the checkout."""
    return ROOT


@pytest.fixture
def shared_snp() -> Path:
    """Folder with a real report and its certificates; lies beside the checkout, not in it."""
    folder = ROOT.parent / "shared" / "data" / "snp"
    if not folder.is_dir():
        pytest.skip(f"no real SNP vectors: {folder} is missing")
    return folder


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees settings of the machine it runs on."""
    prefixes = ("SIDECAR_", "ENCFS_", "AZURE_", "UVM_", "MAA_", "AKV_", "MHSM_")
    for name in list(os.environ):
        if name.startswith(prefixes):
            monkeypatch.delenv(name)
    # A test that forgot to say where identity comes from must not ask the network.
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9")


@pytest.fixture(autouse=True)
def no_unexpected_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A record at WARNING fails the test unless the test reads `caplog` and clears it."""
    yield
    loud = [r for r in caplog.get_records("call") if r.levelno >= logging.WARNING]
    assert not loud, f"unexpected log records: {[r.getMessage() for r in loud]}"
