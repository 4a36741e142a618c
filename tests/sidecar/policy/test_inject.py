"""Putting a policy into templates and manifests: the one value changes, every other byte stays."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import MalformedInput, UsageError
from sidecar.policy.containers_kubernetes import POLICY_ANNOTATION, kubernetes_pods
from sidecar.policy.containers_yaml import read_documents
from sidecar.policy.inject import inject_template, set_member
from sidecar.policy.inject_file import replace_file
from sidecar.policy.inject_yaml import inject_yaml

POLICY = "cGFja2FnZQ=="


def no(question: str) -> bool:
    pytest.fail(question)


def group(properties: str) -> str:
    return '{"resources": [{"type": "x", "properties": ' + properties + "}]}"


# -- templates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '{"confidentialComputeProperties": {"ccePolicy": "", "x": 1}}',
            '{"confidentialComputeProperties": {"ccePolicy": "POLICY", "x": 1}}',
        ),
        (
            '{"CONFIDENTIALcomputeproperties":{"CCEpolicy" :null}}',
            '{"CONFIDENTIALcomputeproperties":{"CCEpolicy" :"POLICY"}}',
        ),
        (
            '{"confidentialComputeProperties": {"a":1}}',
            '{"confidentialComputeProperties": {"a":1, "ccePolicy":"POLICY"}}',
        ),
        (
            '{"a": "// no", /* { */ "b": 1 // }\n}',
            '{"a": "// no", /* { */ "b": 1, "confidentialComputeProperties": {"ccePolicy": "POLICY"} // }\n}',
        ),
        ('{"a": 1}', '{"a": 1, "confidentialComputeProperties": {"ccePolicy": "POLICY"}}'),
        ("{}", '{"confidentialComputeProperties": {"ccePolicy": "POLICY"}}'),
        (
            '{"confidentialComputeProperties": {"ccePolicy": "a\\"}b"}}',
            '{"confidentialComputeProperties": {"ccePolicy": "POLICY"}}',
        ),
        (
            '{\n    "a": 1.0,\n    "b": []\n  }',
            '{\n    "a": 1.0,\n    "b": [],\n    "confidentialComputeProperties": {\n'
            '        "ccePolicy": "POLICY"\n    }\n  }',
        ),
        (
            '{\r\n\t"confidentialComputeProperties": {}\r\n}',
            '{\r\n\t"confidentialComputeProperties": {\r\n\t\t"ccePolicy": "POLICY"\r\n\t}\r\n}',
        ),
    ],
)
def test_template(before: str, after: str) -> None:
    path = ["resources", 0]
    assert inject_template(group(before), path, POLICY) == group(after).replace("POLICY", POLICY)
    marked = "\ufeff" + group(before)
    assert inject_template(marked, path, POLICY) == "\ufeff" + group(after).replace("POLICY", POLICY)


def test_symbolic_names() -> None:
    text = '{"resources": {"g": {"properties": {}}}}'
    made = json.loads(inject_template(text, ["resources", "g"], POLICY))
    assert made["resources"]["g"]["properties"]["confidentialComputeProperties"]["ccePolicy"] == POLICY


@pytest.mark.parametrize(
    "properties",
    ["\"[variables('p')]\"", '{"confidentialComputeProperties": "[parameters(\'c\')]"}', "[1]"],
)
def test_nowhere_to_put_it(properties: str) -> None:
    with pytest.raises(MalformedInput, match="wanted an object"):
        inject_template(group(properties), ["resources", 0], POLICY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('abPR,:{}"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), JSON), st.sampled_from([None, 0, 1, 2, "\t"]), st.booleans())
def test_any_document_keeps_all_else(
    document: dict[str, Any], indent: int | str | None, ascii_only: bool
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    after = set_member(text, ["p", "q"], POLICY)
    assert json.loads(after) == {**document, "p": {"q": POLICY}}
    assert after.replace(POLICY, "").startswith(text.rstrip("}\n \t"))
    assert set_member(after, ["p", "q"], POLICY) == after
    assert set_member(set_member(after, ["P", "Q"], "x"), ["p", "q"], POLICY) == after


# -- manifests ------------------------------------------------------------------------------------

SPEC = "spec:\n  containers:\n  - {name: a, image: b}\n"
KEY = f"{POLICY_ANNOTATION}: {POLICY}"


def injected(text: str) -> str:
    (pod,) = kubernetes_pods([one.value() for one in read_documents(text, "t")], no)
    return inject_yaml(text, pod, POLICY)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("kind: Pod # a\n" + SPEC, f"metadata:\n  annotations:\n    {KEY}\nkind: Pod # a\n" + SPEC),
        (
            "kind: Pod\nmetadata: # m\n  name: x   # n\n" + SPEC,
            f"kind: Pod\nmetadata: # m\n  annotations:\n    {KEY}\n  name: x   # n\n" + SPEC,
        ),
        (
            "kind: Pod\nmetadata:\n    annotations:\n        # first\n        b: 'c'\n" + SPEC,
            f"kind: Pod\nmetadata:\n    annotations:\n        # first\n        {KEY}\n        b: 'c'\n"
            + SPEC,
        ),
        (
            f'kind: Pod\nmetadata:\n  annotations:\n    {POLICY_ANNOTATION}: "old" # keep\n    z: 1\n' + SPEC,
            f"kind: Pod\nmetadata:\n  annotations:\n    {KEY} # keep\n    z: 1\n" + SPEC,
        ),
        (
            f"kind: Pod\nmetadata:\n  annotations:\n    {POLICY_ANNOTATION}:\n    z: 1\n" + SPEC,
            f"kind: Pod\nmetadata:\n  annotations:\n    {KEY}\n    z: 1\n" + SPEC,
        ),
        (
            f"kind: Pod\nmetadata:\n  annotations:\n    {POLICY_ANNOTATION}: >-\n      a\n    z: 1\n{SPEC}",
            f"kind: Pod\nmetadata:\n  annotations:\n    {KEY}\n    z: 1\n" + SPEC,
        ),
        (
            "kind: Pod\nmetadata: {name: x, annotations: {}}\n" + SPEC,
            f"kind: Pod\nmetadata: {{name: x, annotations: {{{KEY}}}}}\n" + SPEC,
        ),
        (
            "kind: Pod\nmetadata: {name: x, annotations: null}\n" + SPEC,
            f"kind: Pod\nmetadata: {{name: x, annotations: {{{KEY}}}}}\n" + SPEC,
        ),
        (
            "kind: Pod\nmetadata:\n  annotations: ~ # none\n  name: x\n" + SPEC,
            f"kind: Pod\nmetadata:\n  annotations:\n    {KEY} # none\n  name: x\n" + SPEC,
        ),
        (
            "kind: Pod\nmetadata:\n  annotations: # none\n  name: x\n" + SPEC,
            f"kind: Pod\nmetadata:\n  annotations: # none\n    {KEY}\n  name: x\n" + SPEC,
        ),
        (
            "kind: Pod\nmetadata: {name: x}\n" + SPEC,
            f"kind: Pod\nmetadata: {{annotations: {{{KEY}}}, name: x}}\n" + SPEC,
        ),
        (
            "kind: Pod\nmetadata:\n  annotations:\n  name: x\n" + SPEC,
            f"kind: Pod\nmetadata:\n  annotations:\n    {KEY}\n  name: x\n" + SPEC,
        ),
        (
            "kind: Pod\r\nmetadata:\r\n  name: x\r\n" + SPEC.replace("\n", "\r\n"),
            f"kind: Pod\r\nmetadata:\r\n  annotations:\r\n    {KEY}\r\n  name: x\r\n"
            + SPEC.replace("\n", "\r\n"),
        ),
    ],
)
def test_manifest(before: str, after: str) -> None:
    assert injected(before) == after
    assert injected(after) == after


def test_the_pod_of_a_workload() -> None:
    spec = "      spec:\n        containers: [{name: a, image: b}]\n"
    job = f"kind: CronJob\nspec:\n  jobTemplate:\n    spec:\n     template:\n{spec}"
    before = f"# top\n---\nkind: Service\n---\n{job}"
    made = read_documents(injected(before), "t")[1].value()
    assert isinstance(made, dict)
    template = made["spec"]["jobTemplate"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {POLICY_ANNOTATION: POLICY}


@pytest.mark.parametrize(
    "metadata",
    [
        "metadata: &m {name: x}\nother: *m",
        "base: &m {name: x}\nmetadata: *m",
        f"metadata:\n  annotations:\n    {POLICY_ANNOTATION}: &p x\n    y: *p",
        f"metadata:\n  annotations:\n    {POLICY_ANNOTATION}: !!str x",
    ],
)
def test_what_cannot_be_edited_for_certain(metadata: str) -> None:
    with pytest.raises(MalformedInput, match="cannot be put in") as caught:
        injected(f"kind: Pod\n{metadata}\n{SPEC}")
    assert POLICY_ANNOTATION in caught.value.hint


# -- files ----------------------------------------------------------------------------------------


def test_replace_keeps_the_mode_and_follows_links(tmp_path: Path) -> None:
    path, link = tmp_path / "f", tmp_path / "l"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    replace_file(link, b"old", b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(one.name for one in tmp_path.iterdir()) == ["f", "l"]


def test_a_file_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"somebody else's")
    with pytest.raises(UsageError, match="changed meanwhile"):
        replace_file(path, b"old", b"new")
    assert path.read_bytes() == b"somebody else's"
    with pytest.raises(UsageError, match="No such file"):
        replace_file(tmp_path / "absent", b"old", b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["f"]
