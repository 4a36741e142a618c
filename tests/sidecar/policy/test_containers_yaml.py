"""YAML from outside: read as Kubernetes reads it, or refused; bombs never explode."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.policy.containers_yaml import Unsure, read_documents, resolve_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: -0", {"a": 0}),
        ("a: '1'", {"a": "1"}),
        ("a: !!str 1", {"a": "1"}),
        ("a: 1.5e3", {"a": 1500.0}),
        ("a: yes", {"a": True}),
        ("a: Off", {"a": False}),
        ("on: x", {"on": "x"}),
        ("1: x", {"1": "x"}),
        ("a:", {"a": None}),
        ("a: ~", {"a": None}),
        ("a: |\n  b\n  c", {"a": "b\nc"}),
        ("a: >-\n  b\n  c\n", {"a": "b c"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("{a: [b, {c: d}]}", {"a": ["b", {"c": "d"}]}),
        ("a: 1Gi", {"a": "1Gi"}),
        ("a: v1.2.3", {"a": "v1.2.3"}),
        ("a: 1.2.3", {"a": "1.2.3"}),
        ("a: 0755", {"a": Unsure("0755")}),
        ("a: 0x10", {"a": Unsure("0x10")}),
        ("a: 1_000", {"a": Unsure("1_000")}),
        ("a: 190:20:30", {"a": Unsure("190:20:30")}),
        ("a: 2026-11-25T10:00:00Z", {"a": Unsure("2026-11-25T10:00:00Z")}),
        ("a: .inf", {"a": Unsure(".inf")}),
        ("a: 99999999999999999999", {"a": Unsure("99999999999999999999")}),
    ],
)
def test_values(text: str, value: object) -> None:
    (document,) = read_documents(text, "YAML")
    assert document.value() == value


def test_streams() -> None:
    documents = read_documents("---\na: 1\n---\n# nothing\n---\nb: 2\n...\n", "YAML")
    assert [one.value() for one in documents] == [{"a": 1}, {"b": 2}]
    assert read_documents("", "YAML") == []
    assert read_documents("---\n---\n", "YAML") == []


def test_places() -> None:
    text = "a: b\nc: {d: 'e'} # f\ng:\n  - |\n    h\n"
    (document,) = read_documents(text, "YAML")
    spans = {
        str(key.scalar): text[value.start : value.end]
        for key, value in document.pairs
        if value.kind == "scalar"
    }
    assert spans == {"a": "b"}
    inner = document.get("c", "d")
    assert inner is not None
    assert (text[inner.start : inner.end], inner.flow) == ("'e'", True)
    sequence = document.get("g")
    assert sequence is not None
    assert text[sequence.items[0].start : sequence.items[0].end] == "|\n    h\n"
    assert document.get("c", "x") is None
    assert document.get("x", "y") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "line 2: key 'a' appears twice"),
        ("a: 1\n'a': 2", "appears twice"),
        ("<<: {a: 1}", "merge keys"),
        ("a: &a [*a]", "inside of what it stands for"),
        ("a: *b", "without an anchor"),
        ("---\na: &b 1\n---\nc: *b", "without an anchor"),
        ("a: !!binary YQ==", "tag 'tag:yaml.org,2002:binary'"),
        ("a: !!python/object:os.system x", "tag"),
        ("a: !mine x", "tag '!mine'"),
        ("!!map {a: 1}", "tag"),
        ("? [a]\n: b", "not plain text"),
        ("? {a: b}\n: c", "not plain text"),
        ("? *a\n: c", "without an anchor"),
        ("a: [", "not YAML"),
        ("a: b: c", "line 1, column 5"),
        ("\ta: 1", "not YAML"),
        ("a: \x01", "not YAML"),
        ("- " * 100 + "a", "levels deep"),
        ("[" * 100, "levels deep"),
        ("{a: " * 100, "levels deep"),
        ("a: '" + "x" * (1 << 20) + "'", "characters"),
        ("---\na\n" * 300, "over 256 documents"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        read_documents(text, "YAML")


def test_an_error_quotes_nothing_of_the_document() -> None:
    with pytest.raises(MalformedInput) as caught:
        read_documents("password: [hunter2", "YAML")
    assert "hunter2" not in str(caught.value)


def test_a_bomb_of_aliases_does_not_explode() -> None:
    text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{at}: &a{at} [{','.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 20)
    )
    started = time.perf_counter()
    with pytest.raises(MalformedInput, match="aliases spelled out"):
        read_documents(text, "YAML")
    assert time.perf_counter() - started < 5


@given(st.text("ab:-?{}[],&*!|>'\"%@`#~ \n\t01<=\\\r\0\x85\u2028\ud800", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        documents = read_documents(text, "YAML")
    except MalformedInput:
        return
    for document in documents:
        document.value()
        assert 0 <= document.start <= document.end <= len(text)


@given(st.text(max_size=12))
def test_any_scalar_resolves(text: str) -> None:
    value = resolve_plain(text)
    assert value is None or isinstance(value, str | bool | int | float | Unsure)
    if isinstance(value, str):
        assert value == text
