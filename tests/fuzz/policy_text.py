"""Atheris target: a security policy of any bytes is read, shown, linted and compared, or refused.

Run by tests/sidecar/policy/test_fuzz.py; by hand: `python tests/fuzz/policy_text.py CORPUS
-max_total_time=60`. The first byte of an input chooses how the rest is read: as it is, as the value of a
binding, as one container."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["sidecar.policy"]):
    from fakes.policies import OPEN_DOOR, container, fragment_text, policy_text
    from fakes.policy_targets import _policy as read_all

    from sidecar.errors import MalformedInput
    from sidecar.policy.parse import parse_fragment_text

import json  # noqa: E402


def text_of(data: bytes) -> bytes:
    """Turn an input into a policy's text."""
    kind, rest = data[:1], data[1:]
    if kind == b"V":
        return b"package policy\n\nallow_dump_stacks := " + rest
    if kind == b"C":
        return b'package policy\n\nframework_version := "0.2.3"\ncontainers := [' + rest + b"]\n"
    return rest


def test_one_input(data: bytes) -> None:
    text = text_of(data)
    for read in (read_all, parse_fragment_text):
        try:
            read(text)
        except MalformedInput:
            continue


def seed(corpus: Path) -> None:
    """Good inputs to start from."""
    corpus.mkdir(exist_ok=True)
    (corpus / "policy").write_bytes(b"T" + policy_text())
    (corpus / "pretty").write_bytes(b"T" + policy_text(pretty=True))
    (corpus / "open").write_bytes(b"T" + OPEN_DOOR)
    (corpus / "fragment").write_bytes(b"T" + fragment_text())
    (corpus / "container").write_bytes(b"C" + json.dumps(container()).encode())
    (corpus / "value").write_bytes(b'V[1, `raw`, {"a": [null, true]}, data.framework.x,] # end\n')


if __name__ == "__main__":
    seed(Path(sys.argv[1]))
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
