"""Fixtures of the sidecar's tests: one software processor per run, because its keys take seconds."""

from __future__ import annotations

import pytest

from sidecar.snp.software import SoftwareProcessor


@pytest.fixture(scope="session")
def snp_processor(tmp_path_factory: pytest.TempPathFactory) -> SoftwareProcessor:
    """Shared by all tests: do not update its firmware; copy `directory` for that."""
    return SoftwareProcessor.open(tmp_path_factory.mktemp("software-snp"), create=True)
