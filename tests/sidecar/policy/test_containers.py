"""What becomes of a container: rules from text, capabilities, users, seccomp, the merge with its image."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fakes.re2_process import Re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.policy.containers import (
    ContainerEntry,
    ContainerSpec,
    EnvRule,
    Scenario,
    SecurityContext,
    escape_re2,
    literal_env,
    pattern_env,
    wildcard_env,
)
from sidecar.policy.containers_defaults import (
    PRIVILEGED,
    SIDECAR_IMAGES,
    UNPRIVILEGED,
    is_sidecar,
    pause_container,
)
from sidecar.policy.containers_merge import MergeOptions, merge
from sidecar.policy.containers_security import capabilities_of, parse_security, seccomp_sha256
from sidecar.policy.containers_users import user_rule
from sidecar.policy.generate import covers
from sidecar.policy.image import ImageConfig, ResolvedImage
from sidecar.policy.members import IdName, UserRule
from sidecar.policy.parse_containers import parse_container

LAYER = "ab" * 32


@pytest.fixture(scope="module")
def re2() -> Iterator[Re2]:
    process = Re2()
    yield process
    process.close()


# -- environment rules ----------------------------------------------------------------------------


def test_patterns_are_anchored_and_names_escaped() -> None:
    assert pattern_env("A.B", "x|y", "c") == EnvRule("A.B", r"^A\.B=(?:x|y)$", "re2")
    assert wildcard_env("A", "c") == EnvRule("A", "^A=.*$", "re2")
    assert pattern_env("A", ".+", "c").pattern == "^A=.+$"
    assert literal_env("A", "x.*", "c") == EnvRule("A", "A=x.*")


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("x|y", "A=x", True),
        ("x|y", "A=y", True),
        ("x|y", "A=xz", False),
        ("x|y", "zA=y", False),
        ("x|y", "y", False),
        ("^(x|y)$", "A=y", True),
        ("^(x|y)$", "A=yy", False),
        ("^x|y$", "A=xz", False),
        (r"x\$", "A=x$", True),
        (r"x\\$", "A=x\\", True),
        ("[)]", "A=)", True),
        (r"\)", "A=)", True),
        ("[]a]", "A=]", True),
        ("[^]]", "A=b", True),
        ("(?i)q", "A=Q", True),
        (r"[\]]", "A=]", True),
        ("[[:digit:]]+", "A=42", True),
    ],
)
def test_patterns_before_the_engine(re2: Re2, pattern: str, text: str, fits: bool) -> None:
    assert re2.finds(pattern_env("A", pattern, "c").pattern, text) is fits


@pytest.mark.parametrize(
    "pattern",
    [
        "a)|(b", ")(", "(", "[", "[]", "[^]", "a\\", "(?=x)", "(?!x)", "(?<=x)", "(?>x)", r"(a)\1", r"\k<a>",
        "a++", "(?P=x)", r"\Q(\E)|(?:\Q)\E", "(?#x)", "x" * 4097, "([)", "(a]",
    ],
)  # fmt: skip
def test_patterns_that_leave_their_group_are_refused(pattern: str) -> None:
    if pattern == "(a]":
        pattern = "(a]["
    with pytest.raises(MalformedInput, match="environment variable 'A'"):
        pattern_env("A", pattern, "c")


@settings(deadline=None)
@given(st.text(r"abim()[]|\.*+?^${}:-!=QEPk1", max_size=12), st.text("ab()[]=\n", max_size=4))
@example(r"a\)|(b", "b")
@example("a|b", "bb")
@example("^?", "")
@example("a$?", "")
@example("^", "")
def test_a_rule_admits_what_its_pattern_says_and_no_more(re2: Re2, pattern: str, value: str) -> None:
    try:
        rule = pattern_env("A", pattern, "c")
    except MalformedInput:
        return
    assert re2.compiles(rule.pattern) == re2.compiles(pattern)
    if re2.compiles(pattern):
        wanted = re2.is_whole(pattern, value)
        admitted = re2.finds(rule.pattern, f"A={value}")
        # An anchor inside of the pattern stands before or after the name and never fits.
        assert admitted == wanted or (wanted and ("^" in pattern or "$" in pattern))
        assert not re2.finds(rule.pattern, value)
        assert not re2.finds(rule.pattern, f"B={value}")


@settings(deadline=None)
@given(st.text(max_size=8).filter(lambda text: "\0" not in text))
def test_escaped_text_means_itself(re2: Re2, text: str) -> None:
    assert re2.finds(f"^{escape_re2(text)}$", text)
    assert not re2.finds(f"^{escape_re2(text)}$", f"{text}x")


# -- capabilities, seccomp ------------------------------------------------------------------------


def sets(**context: Any) -> dict[str, Any]:
    return capabilities_of(parse_security(context, "c")).to_json()


def test_capability_sets() -> None:
    plain = sets()
    assert (
        list(plain["bounding"]) == list(plain["effective"]) == list(plain["permitted"]) == list(UNPRIVILEGED)
    )
    assert plain["inheritable"] == plain["ambient"] == []
    privileged = sets(privileged="TRUE")
    assert privileged["inheritable"] == privileged["bounding"] == list(PRIVILEGED)
    assert len(UNPRIVILEGED) == 14
    assert len(PRIVILEGED) == 41
    assert privileged["ambient"] == []


@pytest.mark.parametrize(
    ("add", "drop", "bounding"),
    [
        (["NET_ADMIN"], ["cap_mknod"], sorted({*UNPRIVILEGED, "CAP_NET_ADMIN"} - {"CAP_MKNOD"})),
        (["CAP_NET_ADMIN"], ["NET_ADMIN"], list(UNPRIVILEGED)),
        (["all"], [], list(PRIVILEGED)),
        ([], ["ALL"], []),
        (["NET_BIND_SERVICE"], ["ALL"], ["CAP_NET_BIND_SERVICE"]),
        (["ALL"], ["SYS_ADMIN"], sorted({*PRIVILEGED} - {"CAP_SYS_ADMIN"})),
    ],
)
def test_added_and_dropped(add: list[str], drop: list[str], bounding: list[str]) -> None:
    made = sets(capabilities={"add": add, "drop": drop})
    assert made["bounding"] == made["effective"] == made["permitted"] == bounding
    assert made["inheritable"] == []


def test_seccomp_is_hashed_in_its_normal_form() -> None:
    normal = (
        b'{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":'
        b'[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},'
        b'{"names":[],"action":"","errnoRet":1}]}'
    )
    written = {
        "comment": "dropped",
        "syscalls": [
            {
                "action": "SCMP_ACT_ALLOW",
                "names": ["read"],
                "args": [{"op": "SCMP_CMP_EQ", "value": 1}],
                "x": 1,
            },
            {"errnoRet": 1},
        ],
        "architectures": ["SCMP_ARCH_X86_64"],
        "defaultAction": "SCMP_ACT_ERRNO",
    }
    text = json.dumps(written, indent=4).encode()
    assert seccomp_sha256(text, "c") == hashlib.sha256(normal).hexdigest()
    encoded = base64.b64encode(text).decode()
    assert (
        parse_security({"seccompProfile": encoded}, "c").seccomp_sha256 == hashlib.sha256(normal).hexdigest()
    )
    assert parse_security({"seccompProfile": {"type": "RuntimeDefault"}}, "c").seccomp_sha256 == ""
    for wrong in (
        b"[]",
        b'{"syscalls": {}}',
        b'{"syscalls": [1]}',
        b'{"a":1,"a":2}',
        b'{"syscalls": [{"args": [1]}]}',
    ):
        with pytest.raises(MalformedInput, match="seccompProfile"):
            seccomp_sha256(wrong, "c")


# -- users ----------------------------------------------------------------------------------------

PASSWD = b"root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken\napp:x:1000:1001::/:/bin/sh\napp:x:7:7::/:/x\n"
GROUP = b"root:x:0:\napp:x:1001:\nstaff:x:50:app,other\n"


def image(
    user: str = "", passwd: bytes | None = PASSWD, group: bytes | None = GROUP, **config: Any
) -> ResolvedImage:
    return ResolvedImage(ImageConfig(user=user, **config), (LAYER,), passwd, group)


def named(user: IdName, *groups: IdName) -> UserRule:
    return UserRule(user, groups or (IdName(),))


def number(text: str) -> IdName:
    return IdName(text, "id")


@pytest.mark.parametrize(
    ("user", "context", "rule"),
    [
        ("", {}, UserRule()),
        ("app", {}, named(IdName("app", "name"))),
        ("1000", {}, named(number("1000"))),
        ("app:staff", {}, named(IdName("app", "name"), IdName("staff", "name"))),
        ("0:0", {}, named(number("0"), number("0"))),
        ("app:staff", {"runAsUser": 5}, named(number("5"))),
        ("app", {"runAsGroup": 6}, named(IdName("app", "name"), number("6"))),
        ("", {"runAsGroup": 0}, named(IdName(), number("0"))),
        ("", {"runAsUser": 5, "fsGroup": 8}, named(number("5"))),
        (
            "",
            {"runAsGroup": 6, "supplementalGroups": [7], "fsGroup": 8},
            named(IdName(), *map(number, "678")),
        ),
    ],
)
def test_users(user: str, context: dict[str, Any], rule: UserRule) -> None:
    assert user_rule(parse_security(context, "c"), image(user), "c") == rule


@pytest.mark.parametrize(
    ("user", "context", "rule"),
    [
        ("", {}, UserRule()),
        ("app", {}, named(number("1000"), number("1001"), number("50"))),
        ("1000", {}, named(number("1000"), number("1001"), number("50"))),
        ("app:staff", {}, named(number("1000"), number("50"))),
        ("4242", {}, named(number("4242"), number("0"))),
        ("root", {"runAsUser": 1000, "runAsGroup": 3}, named(number("1000"), number("3"), number("50"))),
    ],
)
def test_users_by_number(user: str, context: dict[str, Any], rule: UserRule) -> None:
    assert user_rule(parse_security(context, "c"), image(user), "c", as_ids=True) == rule


@pytest.mark.parametrize("user", ["nobody", "app:wheel", "99999999999", "1000:wheel"])
def test_a_user_the_image_does_not_have(user: str) -> None:
    with pytest.raises(MalformedInput, match="container 'c'"):
        user_rule(SecurityContext(), image(user), "container 'c'")


def test_an_image_without_account_files() -> None:
    bare = image("app", passwd=None, group=None)
    assert user_rule(SecurityContext(), bare, "c") == named(IdName("app", "name"))
    with pytest.raises(MalformedInput, match="no /etc/passwd"):
        user_rule(SecurityContext(), bare, "c", as_ids=True)
    with pytest.raises(MalformedInput, match="at most"):
        user_rule(SecurityContext(), image("app", passwd=b"x" * (1 << 20) + b"y"), "c")


# -- the merge ------------------------------------------------------------------------------------


def merged(
    spec: ContainerSpec | None = None, options: MergeOptions | None = None, **config: Any
) -> ContainerEntry:
    return merge(spec or ContainerSpec("c", "i"), image(**config), options or MergeOptions())


@pytest.mark.parametrize(
    ("entrypoint", "arguments", "command"),
    [
        (None, None, ("e", "c")),
        (("x",), None, ("x",)),
        (("x",), ("y",), ("x", "y")),
        (None, ("y",), ("e", "y")),
    ],
)
def test_commands(
    entrypoint: tuple[str, ...] | None, arguments: tuple[str, ...] | None, command: tuple[str, ...]
) -> None:
    spec = ContainerSpec("c", "i", entrypoint=entrypoint, arguments=arguments)
    assert merged(spec, entrypoint=("e",), cmd=("c",)).command == command


def test_no_command_at_all() -> None:
    assert merged().command is None
    assert merged(cmd=("c",)).command == ("c",)
    assert merged(entrypoint=("e",)).command == ("e",)


def test_environment_in_order_and_by_name() -> None:
    spec = ContainerSpec("c", "i", env=(literal_env("B", "1", "c"), literal_env("HOSTNAME", "h", "c")))
    rules = merged(spec, env=("A=a", "B=image", "PATH=/bin=x", "NOVALUE", "TERM=vt")).env_rules
    assert [rule.pattern for rule in rules][:5] == ["B=1", "HOSTNAME=h", "A=a", "PATH=/bin=x", "TERM=vt"]
    assert [rule.name for rule in rules][5:8] == ["(?i)(FABRIC)_.+", "T(E)?MP", "FabricPackageFileName"]
    assert not any(rule.required for rule in rules)
    required = merged(spec, MergeOptions(require_env=True), env=("A=a",)).env_rules
    assert [rule.name for rule in required if rule.required] == ["B", "HOSTNAME"]


def test_virtual_nodes_have_rules_and_mounts_of_their_own() -> None:
    entry = merged(options=MergeOptions(scenario=Scenario.VN2))
    patterns = [rule.pattern for rule in entry.env_rules]
    assert "azurecontainerinstance_restarted_by=.+" in patterns
    assert patterns[-8:] == [
        "[A-Z0-9_]+_SERVICE_HOST=.+", "[A-Z0-9_]+_SERVICE_PORT=.+", "[A-Z0-9_]+_SERVICE_PORT_[A-Z0-9_]+=.+",
        "[A-Z0-9_]+_PORT=.+", "[A-Z0-9_]+_PORT_[0-9]+_TCP=.+", "[A-Z0-9_]+_PORT_[0-9]+_TCP_PROTO=.+",
        "[A-Z0-9_]+_PORT_[0-9]+_TCP_PORT=.+", "[A-Z0-9_]+_PORT_[0-9]+_TCP_ADDR=.+",
    ]  # fmt: skip
    assert [mount.destination for mount in entry.mounts] == [
        "/etc/resolv.conf", "/var/run/secrets/kubernetes.io/serviceaccount", "/etc/hosts",
        "/dev/termination-log", "/etc/hostname",
    ]  # fmt: skip


def test_identity_endpoints_are_offered() -> None:
    patterns = [rule.pattern for rule in merged(options=MergeOptions(identity_2026=True)).env_rules]
    assert patterns[-3:] == ["APP_IDENTITY_ENDPOINT=.+", "IDENTITY_ENDPOINT=.+", "IMDS_ENDPOINT=.+"]


@pytest.mark.parametrize(
    ("signal", "signals"),
    [
        ("", ()), ("SIGTERM", (15,)), ("term", (15,)), ("3", (3,)), ("SIGRTMIN+3", (37,)), ("RTMAX", (64,)),
        ("SIGRTMAX-2", (62,)),
    ],
)  # fmt: skip
def test_signals(signal: str, signals: tuple[int, ...]) -> None:
    assert merged(stop_signal=signal).signals == signals
    always = merged(options=MergeOptions(signals=(9, 15)), stop_signal=signal).signals
    assert always == (9, 15, *(one for one in signals if one != 15))


@pytest.mark.parametrize(
    "config",
    [
        {"stop_signal": "SIGNONE"},
        {"stop_signal": "65"},
        {"stop_signal": "SIGRTMAX+1"},
        {"working_dir": "rel"},
    ],
)
def test_an_image_that_cannot_run(config: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput, match="container 'c'"):
        merged(**config)


def test_working_directory() -> None:
    assert merged().working_dir == "/"
    assert merged(working_dir="/a").working_dir == "/a"
    assert merged(ContainerSpec("c", "i", working_dir="/b"), working_dir="/a").working_dir == "/b"


def test_the_service_s_own_images() -> None:
    assert len(SIDECAR_IMAGES) == 10
    for name in SIDECAR_IMAGES:
        assert is_sidecar(name)
        assert is_sidecar(f"{name}:1.2")
        assert is_sidecar(f"{name}@sha256:{LAYER}")
    assert not is_sidecar("registry:5000/aci/sc-proxy")
    assert not is_sidecar("evil/mcr.microsoft.com/aci/sc-proxy")
    assert not is_sidecar("sc-proxy")


# -- fragments ------------------------------------------------------------------------------------


def test_a_fragment_covers_what_it_admits() -> None:
    entry = merged(ContainerSpec("c", "i", env=(literal_env("A", "1", "c"),)))
    theirs = replace(entry, name="other", id=None)
    assert covers(theirs, entry)
    assert covers(parse_container(theirs.to_json(), "f"), entry)
    more = EnvRule("Z", "Z=1")
    assert covers(replace(theirs, env_rules=(*entry.env_rules, more)), entry)
    assert not covers(replace(theirs, env_rules=(*entry.env_rules, replace(more, required=True))), entry)
    assert not covers(replace(theirs, env_rules=entry.env_rules[1:]), entry)
    assert not covers(replace(theirs, layers=("cd" * 32,)), entry)
    assert not covers(replace(theirs, command=("x",)), entry)
    assert not covers(replace(theirs, allow_stdio_access=False), entry)


def test_the_pause_container_s_entry() -> None:
    entry = pause_container(stdio=True, signals=()).to_json()
    assert list(entry) == sorted(entry)
    assert "id" not in entry
    assert parse_container(entry, "p").to_json() == entry
