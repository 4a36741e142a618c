"""A policy as people read it: every member that matters is there, and what is dangerous stands out."""

from __future__ import annotations

import pytest
from fakes.policies import IMAGE, INFRA, OPEN_DOOR, container, env, policy_text

from sidecar.policy.inspect import describe_policy
from sidecar.policy.inspect_text import Paint, command_line, count, shown
from sidecar.policy.parse import parse_policy

DIGEST = "d" * 64


def lines(text: bytes, paint: Paint | None = None) -> list[str]:
    return [line.strip() for line in describe_policy(parse_policy(text), DIGEST, paint).splitlines()]


def test_a_container_in_full() -> None:
    seen = lines(policy_text())
    assert seen[:2] == [f"digest {DIGEST}", "api 0.11.0, framework 0.2.3"]
    for line in (
        "container 1 app",
        f"image      {IMAGE}",
        "layers     2 layers, base first: aaaaaaaaaaaa bbbbbbbbbbbb",
        "command    /app --port 80",
        "directory  /",
        "user       any; groups any; umask 0022",
        "PATH=/bin  (exactly)",
        "HOSTNAME=.+  (pattern)",
        "MODE=fast  (exactly, required)",
        "/etc/resolv.conf from sandbox:///tmp/atlas/resolvconf/.+ (bind: rbind rshared rw)",
        "/probe",
        "signals    15",
        "capable of CHOWN KILL SETUID",
        "not privileged, standard streams open to the host, new privileges allowed",
        INFRA["feed"],
        "svn      4 or higher",
        "adds     containers, fragments",
        "no  allow_dump_stacks: the host may read stacks of the guest's processes",
    ):
        assert line in seen


def test_what_a_bare_container_lacks() -> None:
    text = policy_text(
        container(
            name=...,
            id=...,
            command=None,
            capabilities=None,
            layers=[],
            env_rules=[],
            mounts=[],
            exec_processes=[],
            signals=[],
            seccomp_profile_sha256="e" * 64,
            allow_elevated=True,
            allow_stdio_access=False,
            no_new_privileges=True,
            user={
                "group_idnames": [],
                "umask": "0077",
                "user_idname": {"pattern": "^app$", "strategy": "re2"},
            },
        ),
        fragments=[],
    )
    seen = lines(text)
    for line in (
        "container 1 layer none",
        "layers     none",
        "command    none",
        "user       re2 ^app$; groups none; umask 0077",
        "capable of what the utility VM computes (the policy is too old to say)",
        f"seccomp    {'e' * 64}",
        "privileged, standard streams closed to the host, no new privileges",
    ):
        assert line in seen
    assert not any(line.startswith(("environment", "mounts", "may also", "fragments")) for line in seen)


@pytest.mark.parametrize(
    ("number", "words"), [(14, "the usual 14: "), (41, "all 41 of a privileged"), (0, "no")]
)
def test_capability_sets_that_are_known(number: int, words: str) -> None:
    names = [f"CAP_N{n}" for n in range(number)]
    sets = dict.fromkeys(("ambient", "bounding", "effective", "inheritable", "permitted"), names)
    (line,) = [x for x in lines(policy_text(container(capabilities=sets))) if x.startswith("capable of")]
    assert words in line
    assert ("children inherit some" in line) is bool(number)


def test_an_allow_all_policy() -> None:
    seen = lines(OPEN_DOOR)
    assert "any container of any image may run: this policy protects nothing" in seen
    assert "create_container: always allowed" in seen
    assert "none given: all are off" in seen


def test_colour_marks_what_is_dangerous() -> None:
    text = policy_text(container(allow_elevated=True), flags={"allow_dump_stacks": True})
    seen = "\n".join(lines(text, Paint(enabled=True)))
    assert "\x1b[31mprivileged\x1b[0m" in seen
    assert "\x1b[31myes\x1b[0m allow_dump_stacks" in seen
    assert "\x1b" not in "\n".join(lines(text))


def test_nothing_of_a_policy_steers_the_terminal() -> None:
    evil = "\x1b]0;x\x07\r\n\u202e"
    text = policy_text(
        container(name=evil, id=evil, working_dir=evil, command=[evil], env_rules=[env(f"A={evil}")]),
        fragments=[INFRA | {"feed": evil, "issuer": evil}],
    )
    assert all(c.isprintable() for line in lines(text) for c in line)


def test_words() -> None:
    assert shown("a\nb") == "a\\nb"
    assert shown("x" * 500) == "x" * 400 + "... (500 characters)"
    assert command_line(["/bin/sh", "-c", "a b; c"]) == "/bin/sh -c 'a b; c'"
    assert (count(1, "layer"), count(2, "layer")) == ("1 layer", "2 layers")
