"""Fixtures of the sidecar's tests: one software processor and one template of certificates a run.

Both have keys that take seconds to make.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from fakes.localcloud import Client, local_cloud, prepared

from sidecar.local.options import LocalSettings
from sidecar.snp.software import SoftwareProcessor

StartCloud = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(scope="session")
def snp_processor(tmp_path_factory: pytest.TempPathFactory) -> SoftwareProcessor:
    """Shared by all tests: do not update its firmware; copy `directory` for that."""
    return SoftwareProcessor.open(tmp_path_factory.mktemp("software-snp"), create=True)


@pytest.fixture(scope="session")
def cloud_template(tmp_path_factory: pytest.TempPathFactory, snp_processor: SoftwareProcessor) -> Path:
    """A state directory that has been used once, so its certificates exist."""
    directory = tmp_path_factory.mktemp("cloud-template") / "state"

    async def once() -> None:
        async with local_cloud(LocalSettings(directory, snp_processor.directory)):
            pass

    trio.run(once)
    return directory


@pytest.fixture
def start_cloud(
    tmp_path: Path,
    cloud_template: Path,
    snp_processor: SoftwareProcessor,
    monkeypatch: pytest.MonkeyPatch,
) -> StartCloud:
    """Start a cloud; the same `name` gives the same state again."""
    # Opening the processor checks a 4096-bit key, 0.2 s a time; the template's cloud has opened it for real.
    monkeypatch.setattr(SoftwareProcessor, "open", lambda directory, create=False: snp_processor)

    def start(name: str = "state", **settings: Any) -> AbstractAsyncContextManager[Client]:
        directory = tmp_path / name
        if not directory.exists():
            prepared(directory, cloud_template)
        options = {"clock": settings.pop("clock")} if "clock" in settings else {}
        return local_cloud(LocalSettings(directory, snp_processor.directory, **settings), **options)

    return start


@pytest.fixture
async def cloud(start_cloud: StartCloud) -> Any:
    """A cloud with default settings."""
    async with start_cloud() as client:
        yield client


@pytest.fixture
def quiet() -> Iterator[None]:
    """The software processor says loudly what it is; where a test means it, that is no accident."""
    device = logging.getLogger("sidecar.snp.device")
    device.setLevel(logging.ERROR)
    yield
    device.setLevel(logging.NOTSET)


@pytest.fixture
async def here(cloud: Client, quiet: None, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A cloud whose environment is the process's own, because azure-identity reads it there."""
    for name, value in cloud.cloud.environment.items():
        monkeypatch.setenv(name, value)
    return cloud
