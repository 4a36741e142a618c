"""Reading policies: the generators' text, text edited by hand, and everything that is refused by name."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from fakes.policies import INFRA, OPEN_DOOR, container, env, fragment_text, policy_text

from sidecar.errors import MalformedInput
from sidecar.policy.parse import parse_fragment_text, parse_policy
from sidecar.policy.parse_model import EnvRule, Point


@pytest.mark.parametrize("pretty", [False, True])
def test_the_generators_text(pretty: bool) -> None:
    policy = parse_policy(policy_text(container(), container(name="b", id=...), pretty=pretty))
    assert (policy.api_version, policy.framework_version) == ("0.11.0", "0.2.3")
    assert [c.to_json() for c in policy.containers] == [
        dict(sorted(container().items())),
        dict(sorted(container(name="b", id=...).items())),
    ]
    assert [f.to_json() for f in policy.fragments] == [INFRA]
    assert policy.flag("allow_properties_access")
    assert not policy.flag("allow_dump_stacks")
    assert len(policy.points) == 18
    assert all(point.fixed is None for point in policy.points)
    assert not policy.admits_anything
    assert policy.containers[0].env_rules[2] == EnvRule("MODE=fast", "string", True)


def test_white_space_comments_and_trailing_commas_change_nothing() -> None:
    text = policy_text().decode()
    edited = (
        text.replace("\n", "\r\n\t\n# a note with \"quotes\" and [brackets\n")
        .replace(',"', ' ,\n  # in between\n  "')
        .replace("}]", "} ,\n ]")
    )  # fmt: skip
    assert edited != text
    assert parse_policy(edited.encode()) == parse_policy(text.encode())
    raw = text.replace('"MODE=fast"', "`MODE=fast`")
    assert parse_policy(raw.encode()) == parse_policy(text.encode())


def test_strings_are_read_as_json_reads_them() -> None:
    rule = env('A=é "x" \\ \n\u2028')
    policy = parse_policy(policy_text(container(env_rules=[rule])))
    assert policy.containers[0].env_rules[0].pattern == rule["pattern"]


def test_an_allow_all_policy_says_so() -> None:
    policy = parse_policy(OPEN_DOOR)
    assert policy.admits_anything
    assert policy.api_version == "0.10.0"
    assert policy.points[0] == Point("mount_device", True)


def test_the_real_policy(shared_snp: Path) -> None:
    text = base64.b64decode((shared_snp / "uvm_security_policy.base64").read_bytes())
    assert parse_policy(text).admits_anything


def test_what_older_frameworks_lack() -> None:
    old = container(
        **dict.fromkeys(
            ("capabilities", "user", "seccomp_profile_sha256", "no_new_privileges", "signals", "name"), ...
        )
    )
    (read,) = parse_policy(policy_text(old, framework="0.1.0")).containers
    assert read.capabilities is None
    assert read.label == old["id"]


def changed(**changes: Any) -> bytes:
    return policy_text(container(**changes))


def text_with(old: str, new: str) -> bytes:
    text = policy_text().decode()
    assert old in text
    return text.replace(old, new, 1).encode()


FLAG = "allow_dump_stacks := false"
REFUSED: list[tuple[bytes, str]] = [
    (b"", "the end, wanted a package line"),
    (b"\xff", "not UTF-8 at byte 0"),
    (b"package other\n", "package 'other', wanted 'policy'"),
    (b"package policy.sub\n", "has a dot"),
    (b'package policy api_version := "1"\n', "wanted the end of the line"),
    (text_with(FLAG, "default allow_dump_stacks := false"), "wanted ':=' after 'default'"),
    (text_with(FLAG, "allow_dump_stacks { input.x }"), "'{', wanted ':=' after 'allow_dump_stacks'"),
    (text_with(FLAG, "allow_dump_stacks := false { input.x }"), "wanted the end of the line"),
    (text_with(FLAG, "allow_dump_stacks := input.x == 1"), "line [0-9]+: '== 1', wanted the Rego"),
    (text_with(FLAG, "allow_dump_stacks := [x | x := input.x]"), "wanted the Rego of a generated policy"),
    (text_with(FLAG, "allow_dump_stacks := data.framework.allow"), "of another type, wanted true or false"),
    (text_with(FLAG, "allow_dump_stacks := 1.5"), "wanted the Rego"),
    (text_with(FLAG, "allow_dump_stacks := 007"), "wanted the Rego"),
    (text_with(FLAG, "allow_dump_stacks := 123456789012345678901"), "a number of 21 characters"),
    (text_with(FLAG, 'allow_dump_stacks := "\\ud800"'), "half of a surrogate pair"),
    (text_with(FLAG, 'allow_dump_stacks := "\\x"'), "a string with invalid"),
    (text_with(FLAG, "allow_dump_stacks := [" + "[" * 40), "nested more than 16"),
    (text_with(FLAG, 'allow_dump_stacks := {"a": 1, "a": 2}'), "member 'a' appears twice"),
    (text_with(FLAG, "allow_dump_stacks := [,]"), "',', wanted a value"),
    (text_with(FLAG, "allow_dump_stacks := [1 2]"), "wanted ',' or ']'"),
    (text_with(FLAG, "allow_dump_stacks := {1: 2}"), "wanted a member's name in quotes"),
    (text_with(FLAG, f"{FLAG}\n{FLAG}"), "is bound twice"),
    (text_with(FLAG, "import future.keywords.if"), "an import after the bindings"),
    (text_with("import future.keywords.in", "import data.other"), "import of 'data.other'"),
    (text_with("shutdown_container :=", "shut_down_container :="), "'shut_down_container' is not a name"),
    (text_with("data.framework.create_container", "data.framework.x"), "bound to neither"),
    (text_with("data.framework.errors}", "data.framework.other}"), "reason is bound to something else"),
    (text_with('"0.11.0"', '"latest"'), "api_version is 'latest'"),
    (changed(command=...), "container.0. 'app': member 'command' is missing"),
    (changed(surprise=1), "member 'surprise' is not one this reader knows"),
    (changed(command="/app"), "command: of another type"),
    (changed(layers=["A" * 64]), r"layers\[0\]: 'AAA"),
    (changed(env_rules=[{"pattern": "A=b", "strategy": "glob"}]), r"env_rules\[0\]: strategy: 'glob'"),
    (changed(env_rules=[env("A=b", required="yes")]), "wanted true or false"),  # type: ignore[arg-type]
    (changed(signals=[True]), "wanted the number of a signal"),
    (changed(mounts=[{"destination": "/x"}]), r"mounts\[0\]: member 'options' is missing"),
    (changed(capabilities={"ambient": []}), "capabilities: member 'bounding' is missing"),
    (policy_text(fragments=[INFRA | {"minimum_svn": 1}]), "minimum_svn: of another type"),
    (policy_text(fragments=[INFRA | {"minimum_svn": "-1"}]), "minimum_svn is '-1'"),
    (policy_text(fragments=[INFRA | {"includes": ["all"]}]), "includes 'all'"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_policy(data)


def test_a_large_policy_is_read_soon() -> None:
    rules = [env(f"NAME{number}=value") for number in range(5000)]
    text = policy_text(*(container(name=f"c{n}", env_rules=rules) for n in range(4)))
    assert len(text) > 1_000_000
    assert len(parse_policy(text).containers) == 4


def test_a_fragment() -> None:
    fragment = parse_fragment_text(fragment_text(container(), namespace="contoso", svn="3"))
    assert (fragment.namespace, fragment.svn, fragment.framework_version) == ("contoso", "3", "0.2.3")
    assert fragment.includes == ("containers", "fragments")
    assert fragment.containers[0].name == "app"


FRAGMENTS: list[tuple[bytes, str]] = [
    (b"\n" + fragment_text(), "first line is not the package line"),
    (b"# note\n" + fragment_text(), "first line is not the package line"),
    (fragment_text(namespace="policy"), "namespace 'policy' is reserved"),
    (fragment_text(namespace="import"), "namespace 'import' is reserved"),
    (fragment_text(svn="x"), "svn is 'x'"),
    (fragment_text().replace(b'svn := "1"\n', b""), "svn: of another type"),
    (fragment_text().replace(b"framework_version", b"framework"), "framework_version is missing"),
    (fragment_text() + b"create_container := data.framework.create_container\n", "'create_container' is not"),
]


@pytest.mark.parametrize(("data", "message"), FRAGMENTS)
def test_fragments_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_fragment_text(data)
