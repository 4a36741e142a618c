"""Atheris target: whatever an image holds, hashing it ends in our errors, soon, or in a root hash.

Run by tests/sidecar/policy/test_fuzz_layers.py; by hand:
`python tests/fuzz/image_layer.py CORPUS -max_total_time=60`.
The first byte of an input chooses the reader (see tests/fakes/layer_targets.py), the rest is what it gets.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["sidecar.policy"]):
    from fakes.layer_targets import targets

TARGETS = targets()


def test_one_input(data: bytes) -> None:
    if not data:
        return
    target = TARGETS[data[0] % len(TARGETS)]
    try:
        target.call(data[1:])
    except target.allowed:
        return


def seed(corpus: Path) -> None:
    """Good inputs to start from."""
    corpus.mkdir(exist_ok=True)
    for number, target in enumerate(TARGETS):
        for place, good in enumerate(target.seeds):
            (corpus / f"{number}-{place}").write_bytes(bytes([number]) + good)


if __name__ == "__main__":
    seed(Path(sys.argv[1]))
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
