"""Every codec of the attestation core under changed bytes; FUZZ_SECONDS is the time for each (2)."""

from __future__ import annotations

import os

import pytest
from fakes.fuzz import Target, run
from fakes.snp_targets import targets

from sidecar.errors import MalformedInput

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_only_typed_errors(target: Target) -> None:
    outcome = run(target, float(os.environ.get("FUZZ_SECONDS", "2")))
    assert outcome.runs > 50, "too slow to mean anything"


def test_the_harness_notices() -> None:
    """A codec with a mistake is caught within a second."""

    def careless(data: bytes) -> None:
        if len(data) < 4:
            raise MalformedInput("short")
        if data[2] == 7:
            raise IndexError("as careless code does")

    with pytest.raises(AssertionError, match=r"careless, seed 1: IndexError"):
        run(Target("careless", [bytes(16)], careless, MalformedInput), 10)
