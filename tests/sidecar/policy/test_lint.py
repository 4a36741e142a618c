"""Linting: each thing that can be wrong is found once, and a policy without it is silent."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.policies import IMAGE, INFRA, OPEN_DOOR, container, env, policy_text

from sidecar.policy.lint import Finding, Level, describe_findings, lint_policy
from sidecar.policy.parse import parse_policy

QUIET = container(allow_stdio_access=False)
PLATFORM_ENV = [
    env("TERM=xterm"),
    *(env(p, "re2") for p in ("(?i)(FABRIC)_.+=.+", "HOSTNAME=.+", "T(E)?MP=.+", "IDENTITY_HEADER=.+")),
    *(env(f"[A-Z0-9_]+_{p}=.+", "re2") for p in ("SERVICE_HOST", "SERVICE_PORT_[A-Z0-9_]+", "PORT")),
    env("[A-Z0-9_]+_PORT_[0-9]+_TCP_ADDR=.+", "re2"),
]


def codes(text: bytes) -> list[tuple[str, str]]:
    return [(str(f.level), f.code) for f in lint_policy(parse_policy(text))]


def test_a_good_policy_is_silent() -> None:
    flags = {"allow_environment_variable_dropping": False}
    quiet = QUIET | {"env_rules": [env("PATH=/bin"), *PLATFORM_ENV]}
    assert codes(policy_text(quiet, flags=flags)) == []
    assert describe_findings(()) == "nothing found"


def rules(*patterns: str, strategy: str = "re2") -> dict[str, Any]:
    return QUIET | {"env_rules": [env(pattern, strategy) for pattern in patterns]}


def literal(pattern: str) -> dict[str, Any]:
    return rules(pattern, strategy="string")


SHELL = {"command": ["/bin/bash"], "signals": []}
MIGHTY = QUIET["capabilities"] | {"bounding": ["CAP_SYS_ADMIN"]}
CONTAINERS: list[tuple[str, dict[str, Any], str, str]] = [
    ("privileged", QUIET | {"allow_elevated": True}, "error", "privileged"),
    ("mighty", QUIET | {"capabilities": MIGHTY}, "warning", "capabilities"),
    ("shell", QUIET | {"exec_processes": [SHELL]}, "error", "debug-mode"),
    ("stdio", QUIET | {"allow_stdio_access": True}, "warning", "stdio"),
    ("latest", QUIET | {"id": "r.example:5000/app"}, "warning", "mutable-tag"),
    ("tag", QUIET | {"id": "r.example/app:1.2"}, "note", "mutable-tag"),
    ("no layers", QUIET | {"layers": []}, "error", "no-layers"),
    ("no command", QUIET | {"command": None}, "note", "no-command"),
    ("any name", rules(".*"), "error", "wildcard-name"),
    ("any name and value", rules(".+=.+"), "error", "wildcard-name"),
    ("any value", rules("LEVEL=.*"), "warning", "wildcard-value"),
    ("any value, grouped", rules("LEVEL=(.+)"), "warning", "wildcard-value"),
    ("no name", rules("LEVEL"), "warning", "pattern-without-name"),
    ("alternative", rules("LEVEL=a|b"), "error", "open-alternative"),
    ("literal without value", literal("LEVEL"), "warning", "never-matches"),
    ("twice", rules("A=1", "A=2", strategy="string"), "note", "several-rules"),
    ("secret by name", literal("DB_PASSWORD=hunter22"), "error", "secret-in-env"),
    ("connection string", literal("CONNECTION_STRING=x"), "error", "secret-in-env"),
    ("token by shape", literal("X=eyJhbGciOiJub25l.eyJzdWIiOiIxMjM0.sig"), "error", "secret-in-env"),
    ("signed url", literal("U=https://a.b/c?sv=1&sig=" + "a" * 30), "error", "secret-in-env"),
    ("account key", literal("S=AccountName=a;AccountKey=c2VjcmV0"), "error", "secret-in-env"),
    ("password in url", literal("U=amqp://user:secret@host/"), "error", "secret-in-env"),
    ("secret in pattern", rules("U=amqp://user:secret@host/.{2}"), "error", "secret-in-env"),
]


@pytest.mark.parametrize(
    ("entry", "level", "code"), [c[1:] for c in CONTAINERS], ids=[c[0] for c in CONTAINERS]
)
def test_what_is_found_in_a_container(entry: dict[str, Any], level: str, code: str) -> None:
    assert [c for c in codes(policy_text(entry)) if c[1] != "env-dropping"] == [(level, code)]


@pytest.mark.parametrize(
    "pattern",
    [
        "TOKEN_FILE=/run/token",
        "KEY_VAULT_NAME=x",
        "DB_PASSWORD=",
        "PATH=/usr/bin",
        "MONKEY=banana",
        "SECRET_PATH=/x",
        "AUTHORS=me",
    ],
)
def test_what_is_no_secret(pattern: str) -> None:
    assert codes(policy_text(literal(pattern))) == [("note", "env-dropping")]


def test_a_secret_is_never_shown() -> None:
    text = policy_text(literal("DB_PASSWORD=hunter22"))
    findings = lint_policy(parse_policy(text))
    assert "hunter22" not in describe_findings(findings) + str([f.to_json() for f in findings])


POLICIES: list[tuple[bytes, str, str]] = [
    (OPEN_DOOR, "error", "open-policy"),
    (
        policy_text(QUIET).replace(b":= data.framework.exec_external", b':= {"allowed": true}'),
        "error",
        "open-point",
    ),
    (policy_text(QUIET, flags={"allow_dump_stacks": True}), "error", "debug-mode"),
    (policy_text(QUIET, flags={"allow_unencrypted_scratch": True}), "error", "unencrypted-scratch"),
    (policy_text(QUIET, framework="9.0.0"), "warning", "framework-version"),
    (policy_text(QUIET, fragments=[INFRA | {"minimum_svn": "0"}]), "warning", "fragment-svn"),
    (policy_text(QUIET, fragments=[INFRA | {"issuer": "did:x509:other"}]), "note", "fragment-signer"),
    (policy_text(QUIET, fragments=[INFRA | {"includes": ["namespace"]}]), "warning", "fragment-namespace"),
    (policy_text(QUIET, QUIET | {"name": "b", "allow_stdio_access": True}), "error", "ambiguous-stdio"),
]


@pytest.mark.parametrize(("text", "level", "code"), POLICIES)
def test_what_is_found_in_a_policy(text: bytes, level: str, code: str) -> None:
    assert (level, code) in codes(text)


def of_image(*layers: tuple[str, int]) -> list[Finding]:
    findings = lint_policy(parse_policy(policy_text(QUIET)), images={IMAGE: layers})
    return [f for f in findings if f.code != "env-dropping"]


def test_a_layer_with_implicit_parents_is_named() -> None:
    (found,) = of_image(("a" * 64, 0), ("b" * 64, 2))
    assert (found.level, found.code) == (Level.WARNING, "implicit-parents")
    assert "layer 1 (bbbbbbbbbbbb) uses 2 directories" in found.words


def test_an_image_that_moved_on_is_named() -> None:
    assert of_image(("a" * 64, 0), ("b" * 64, 0)) == []
    (found,) = of_image(("a" * 64, 0))
    assert (found.level, found.code) == (Level.ERROR, "stale-layers")


def test_the_worst_comes_first() -> None:
    text = policy_text(QUIET | {"allow_elevated": True, "allow_stdio_access": True, "id": IMAGE})
    levels = [level for level, _ in codes(text)]
    assert levels == ["error", "warning", "note"]
    assert describe_findings(lint_policy(parse_policy(text))).endswith("1 error, 1 warning, 1 note")
