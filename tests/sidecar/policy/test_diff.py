"""What changed between two policies: one changed thing is one change, and it is named."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.policies import INFRA, OPEN_DOOR, container, env, policy_text

from sidecar.errors import MalformedInput
from sidecar.policy.diff import compare, describe_difference
from sidecar.policy.digest import FoundPolicy
from sidecar.policy.inspect_text import Paint

BASE = container()
RULES: list[dict[str, Any]] = BASE["env_rules"]
MOUNT: dict[str, Any] = BASE["mounts"][0]


def changes(old: bytes, new: bytes) -> list[tuple[str, str, str, str, str]]:
    difference = compare(FoundPolicy("", old), FoundPolicy("", new))
    assert not difference.same
    return [(c.where, c.what, str(c.kind), c.before, c.after) for c in difference.changes]


def user(**changed: Any) -> dict[str, Any]:
    entry: dict[str, Any] = BASE["user"]
    return entry | changed


def capabilities(**changed: Any) -> dict[str, Any]:
    entry: dict[str, Any] = BASE["capabilities"]
    return entry | changed


APP = "container app"
IN_CONTAINER: list[tuple[dict[str, Any], list[tuple[str, str, str, str]]]] = [
    ({"id": "other"}, [("image", "changed", BASE["id"], "other")]),
    ({"layers": ["a" * 64, "d" * 64]}, [("layer 1", "changed", "b" * 64, "d" * 64)]),
    ({"layers": ["a" * 64]}, [("layer 1", "removed", "b" * 64, "")]),
    ({"command": ["/app"]}, [("command", "changed", "/app --port 80", "/app")]),
    ({"command": None}, [("command", "changed", "/app --port 80", "")]),
    ({"working_dir": "/srv"}, [("directory", "changed", "/", "/srv")]),
    (
        {"env_rules": [*RULES[:2], env("MODE=slow", required=True)]},
        [("environment", "changed", "MODE=fast (exactly, required)", "MODE=slow (exactly, required)")],
    ),
    ({"env_rules": [*RULES, env("X=1")]}, [("environment", "added", "", "X=1 (exactly)")]),
    ({"env_rules": RULES[:1] + RULES[2:]}, [("environment", "removed", "HOSTNAME=.+ (pattern)", "")]),
    (
        {"mounts": [MOUNT | {"options": ["rbind", "rshared", "ro"]}]},
        [
            ("mount", "removed", f"/etc/resolv.conf from {MOUNT['source']} (bind: rbind rshared rw)", ""),
            ("mount", "added", "", f"/etc/resolv.conf from {MOUNT['source']} (bind: rbind rshared ro)"),
        ],
    ),
    ({"exec_processes": []}, [("process", "removed", "/probe", "")]),
    ({"signals": [15, 9]}, [("signal", "added", "", "9")]),
    (
        {"capabilities": capabilities(ambient=["CAP_KILL"])},
        [("ambient capability", "added", "", "CAP_KILL")],
    ),
    ({"capabilities": None}, [("capabilities", "changed", "listed", "computed")]),
    (
        {"user": user(user_idname={"pattern": "0", "strategy": "id"})},
        [("user", "changed", "any", "id 0")],
    ),
    ({"user": user(umask="0077")}, [("umask", "changed", "0022", "0077")]),
    ({"seccomp_profile_sha256": "e" * 64}, [("seccomp profile", "changed", "", "e" * 64)]),
    ({"allow_elevated": True}, [("privileged", "changed", "no", "yes")]),
    ({"allow_stdio_access": False}, [("standard streams open to the host", "changed", "yes", "no")]),
    ({"no_new_privileges": True}, [("no new privileges", "changed", "no", "yes")]),
]


@pytest.mark.parametrize(("changed", "wanted"), IN_CONTAINER)
def test_one_change_in_a_container(changed: dict[str, Any], wanted: list[tuple[str, str, str, str]]) -> None:
    assert changes(policy_text(BASE), policy_text(BASE | changed)) == [(APP, *one) for one in wanted]


def test_a_renamed_container_is_the_same_one() -> None:
    assert changes(policy_text(BASE), policy_text(BASE | {"name": "web"})) == [
        ("container web", "name", "changed", "app", "web")
    ]


def test_containers_that_come_and_go() -> None:
    other = container(name="other", id="o", layers=["d" * 64], command=["/o"])
    assert changes(policy_text(BASE), policy_text(other)) == [
        ("containers", "container", "removed", f"app ({BASE['id']})", ""),
        ("containers", "container", "added", "", "other (o)"),
    ]


def test_containers_of_one_name_are_told_apart_by_image() -> None:
    one, two = container(id="one"), container(id="two", layers=["d" * 64])
    assert changes(policy_text(one, two), policy_text(two, one)) == [
        ("policy", "the same rules in another order", "changed", "", "")
    ]


def test_settings_fragments_and_points() -> None:
    new = policy_text(
        BASE,
        flags={"allow_dump_stacks": True},
        api="0.10.0",
        fragments=[INFRA | {"minimum_svn": "5"}, INFRA | {"feed": "mine"}],
    ).replace(b":= data.framework.exec_external", b':= {"allowed": true}')
    assert changes(policy_text(BASE), new) == [
        ("policy", "api_version", "changed", "0.11.0", "0.10.0"),
        ("flag", "allow_dump_stacks", "changed", "no", "yes"),
        ("enforcement points", "exec_external", "changed", "framework", "always allowed"),
        (f"fragment {INFRA['feed']}", "minimum svn", "changed", "4", "5"),
        ("fragment mine", "fragment", "added", "", f"issuer {INFRA['issuer']}"),
    ]


def test_only_the_text_differs() -> None:
    words = "the same rules, written differently: only the text's bytes differ"
    assert changes(policy_text(BASE), policy_text(BASE, pretty=True)) == [
        ("policy", words, "changed", "", "")
    ]


def test_the_same_policy() -> None:
    difference = compare(*(FoundPolicy("", policy_text()) for _ in range(2)))
    assert (difference.same, difference.changes) == (True, ())
    assert describe_difference(difference) == f"the same policy, digest {difference.before}"


def test_both_digests_are_shown() -> None:
    old, new = FoundPolicy("", policy_text()), FoundPolicy("", OPEN_DOOR)
    text = describe_difference(compare(old, new))
    assert old.digest in text
    assert new.digest in text
    assert "create_container: framework -> always allowed" in text
    assert "\x1b[31m" in describe_difference(compare(old, new), Paint(enabled=True))


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(MalformedInput, match="the second: line 1"):
        compare(FoundPolicy("", policy_text()), FoundPolicy("", b"default x = 1"))


def test_a_hostile_text_reaches_no_terminal() -> None:
    difference = compare(
        FoundPolicy("", policy_text()), FoundPolicy("", policy_text(container(working_dir="/\x1b[2J\x07")))
    )
    assert "\x1b" not in describe_difference(difference)
