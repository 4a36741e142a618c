"""Fixtures of the LUKS2 tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.luks2_images import Cryptsetup


@pytest.fixture
def cryptsetup(tmp_path: Path) -> Cryptsetup:
    """Real cryptsetup; skips where it is not installed."""
    return Cryptsetup(tmp_path)
