"""Denials of a failed start, in the shapes in which the service hands them on."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fakes.policies import container, policy_text

from sidecar.errors import MalformedInput
from sidecar.policy.denial import describe_denial, parse_denial
from sidecar.policy.parse import parse_policy


def decision(*errors: str, **members: Any) -> dict[str, Any]:
    whole = {"decision": "deny", "reason": {"errors": list(errors)}}
    return {name: value for name, value in (whole | members).items() if value is not ...}


def encoded(value: dict[str, Any]) -> bytes:
    return base64.b64encode(json.dumps(value).encode())


def event(value: dict[str, Any]) -> bytes:
    return (
        b"Deployment Failed. ErrorMessage=failed to create containerd task: guest RPC failure: "
        b"policyDecision< " + encoded(value) + b" >policyDecision: unknown"
    )


@pytest.mark.parametrize(
    "wrap",
    [
        event,
        encoded,
        lambda value: json.dumps(value).encode(),
        lambda value: b'  "' + encoded(value).replace(b"A", b"A\n") + b'"\n',
        lambda value: encoded(value).rstrip(b"="),
    ],
    ids=["event", "base64", "json", "wrapped and quoted", "without padding"],
)
def test_every_way_to_paste_it(wrap: Any) -> None:
    denial = parse_denial(wrap(decision("deviceHash not found", input={"rule": "mount_device"})))
    assert denial.decision == "deny"
    assert denial.rule == "mount_device"
    text = describe_denial(denial)
    assert "deny: the policy refused to mount an image layer" in text
    assert "a hash that the policy does not list" in text
    assert "cure: the image changed" in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("no matching containers for overlay", "exactly these layers"),
        ("invalid command", "word by word"),
        ("invalid env list: A,B", "no rule admits"),
        ("missing required environment variable", "was not set"),
        ("invalid mount list: /mnt", "source, type or options"),
        ("invalid user", "umask"),
        ("invalid working directory", "working directory"),
        ("privileged escalation not allowed", "privileged mode"),
        ("invalid noNewPrivileges", "no new privileges"),
        ("invalid seccomp", "seccomp profile"),
        ("capabilities don't match", "capability sets"),
        ("containers only distinguishable by allow_stdio_access", "cannot be told"),
        ("invalid fragment issuer", "no fragment of this signer"),
        ("invalid fragment feed", "no fragment of this feed"),
        ("fragment svn is below the specified minimum", "older than the policy accepts"),
        ("fragment svn and the specified minimum are different types", "plain number"),
        ("svn in header 1 does not match svn in fragment rego 2", "different security versions"),
        (
            "framework_version is ahead of the current version: 0.9.0 is greater than 0.5.0",
            "newer framework",
        ),
        ("unencrypted scratch not allowed, non-readonly mount request", "not encrypted"),
        ("no device at path to unmount", "nothing of that kind"),
        ("target isn't allowed to receive the signal", "does not list that signal"),
    ],
)
def test_what_the_frameworks_errors_mean(error: str, words: str) -> None:
    text = describe_denial(parse_denial(event(decision(error))))
    assert error in text
    assert words in text


def test_the_request_beside_what_the_policy_wants() -> None:
    request = {
        "rule": "create_container",
        "argList": ["/app", "--port", "81"],
        "envList": ["PATH=<<redacted>>"],
        "workingDir": "/srv",
    }
    errors = ("invalid command", "missing required environment variable", "invalid working directory")
    denial = parse_denial(event(decision(*errors, input=request)))
    policy = parse_policy(policy_text())
    text = describe_denial(denial, containers=policy.containers)
    assert "asked for: /app --port 81\n    admitted:  /app --port 80" in text
    assert "required:  MODE=fast" in text
    assert "asked for: /srv\n    admitted:  /" in text


def test_the_closest_entries_come_along() -> None:
    reason = {
        "errors": ["invalid command"],
        "error_objects": [container() | {"capabilities": "[privileged]"}],
    }
    denial = parse_denial(event(decision(reason=reason, input={"argList": ["/x y"]})))
    text = describe_denial(denial)
    assert "asked for: '/x y'\n    admitted:  /app --port 80" in text


def test_what_was_cut_away() -> None:
    text = describe_denial(parse_denial(event(decision(reason=..., truncated=["input", "reason"]))))
    assert "no reason came along" in text
    assert "cut away to fit the message: input, reason" in text


def test_a_policy_that_could_not_be_evaluated() -> None:
    words = "Security policy is not valid. Please check security policy or re-generate with tooling."
    text = describe_denial(
        parse_denial(event(decision(reason=words, policyError="rego_parse_error: line 3")))
    )
    assert "could not evaluate the policy" in text
    assert "rego_parse_error: line 3" in text


def test_an_unknown_error_is_shown_safely() -> None:
    text = describe_denial(parse_denial(event(decision("a new \x1b[2J error"))))
    assert "a new \\u001b[2J error" in text
    assert "not known here" in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "none found"),
        (b"container exited with 1.", "none found"),
        (b"policyDecision< !!! >policyDecision", "none found"),
        (b"policyDecision< QUJD >policyDecision", "neither JSON nor the base64"),
        (base64.b64encode(b'{"decision":'), "not JSON"),
        (base64.b64encode(b'{"a": 1}'), "neither a decision nor a reason"),
        (b"A", "does not decode"),
        (b"[]", "none found"),
    ],
)
def test_what_is_no_decision(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_denial(data)
