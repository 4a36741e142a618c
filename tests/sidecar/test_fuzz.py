"""Hostile input on the key path: only the package's own errors come out, and nothing changed verifies."""

from __future__ import annotations

import pytest
from fakes.fuzz import Target, run
from fakes.key_targets import targets


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_only_our_errors(target: Target) -> None:
    outcome = run(target, 0.2)
    assert outcome.runs > 20
