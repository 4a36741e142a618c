"""What starting costs: processor time, which a busy machine does not change, and what must not be loaded."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence

import pytest

BOUND_SECONDS = 0.15
# What only some commands need, and what costs most to load.
HEAVY = ["trio", "pyfuse3", "cryptography", "httpx", "azure", "sidecar", "hypercorn"]


def processor_seconds(words: Sequence[str]) -> float:
    """User and system time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def loaded(code: str) -> set[str]:
    """Which of the heavy libraries a piece of code loads."""
    script = f"import json, sys\n{code}\nprint(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=30)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "words", [["-c", "import encfs"], ["-m", "encfs", "--help"]], ids=["import encfs", "encfs --help"]
)
def test_starts_at_once(words: list[str]) -> None:
    # The least of several: what else runs on the machine only ever adds.
    assert min(processor_seconds([sys.executable, *words]) for _ in range(5)) < BOUND_SECONDS


HELP = """
import contextlib, io
from encfs.cli import main
sys.argv = ["encfs", "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main()
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import encfs", set()),
        (HELP, set()),
        # A driver of a local image: no client of any store, no attestation, and no second copy of OpenSSL.
        ("import encfs.driver", {"trio", "pyfuse3"}),
        ("import encfs.supervisor, encfs.opening", {"trio", "cryptography"}),
    ],
    ids=["package", "help", "driver", "supervisor"],
)
def test_loads_what_it_needs(code: str, expected: set[str]) -> None:
    assert loaded(code) == expected
