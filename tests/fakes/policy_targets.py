"""Fuzz targets: everything about security policies that reads what somebody else wrote."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime

from fakes.fuzz import Target
from fakes.policies import INFRA, OPEN_DOOR, container, env, fragment_text, policy_text
from sidecar.cose import parse_sign1
from sidecar.errors import MalformedInput, SidecarError
from sidecar.policy.denial import describe_denial, parse_denial
from sidecar.policy.diff import compare_policies
from sidecar.policy.digest import find_policies
from sidecar.policy.fragment import load_signer, sign_fragment, verify_fragment
from sidecar.policy.fragment_text import parse_imports
from sidecar.policy.inspect import describe_policy
from sidecar.policy.lint import describe_findings, lint_policy
from sidecar.policy.parse import parse_fragment_text, parse_policy
from sidecar.policy.testchain import make_test_chain

TEXT = policy_text(container(env_rules=[env("A=b"), env("B=.+", "re2")]))
BASE = parse_policy(TEXT)


def targets() -> list[Target]:
    """All of them; seeds are valid inputs of every kind."""
    chain = make_test_chain(now=datetime(2026, 1, 1, tzinfo=UTC), kind="p256")
    signed = sign_fragment(
        fragment_text(), load_signer(chain.key_pem, chain.chain_pem), feed="registry.example/app"
    )
    decision = {"decision": "deny", "reason": {"errors": ["invalid command"]}, "input": {"argList": ["/x"]}}
    encoded = base64.b64encode(json.dumps(decision).encode())
    event = b"policyDecision< " + encoded + b" >policyDecision"
    properties = {"confidentialComputeProperties": {"ccePolicy": base64.b64encode(TEXT).decode()}}
    template = json.dumps({"resources": [{"name": "g", "properties": properties}]}).encode()
    return [
        Target("policy", [TEXT, policy_text(pretty=True), OPEN_DOOR], _policy, MalformedInput),
        Target("fragment text", [fragment_text(fragments=[INFRA])], parse_fragment_text, MalformedInput),
        Target("fragment", [signed], _fragment(signed), SidecarError),
        Target("imports", [json.dumps({"fragments": [INFRA]}).encode()], parse_imports, MalformedInput),
        Target("denial", [event, encoded], _denial, MalformedInput),
        Target("template", [template, base64.b64encode(TEXT)], find_policies, MalformedInput),
    ]  # fmt: skip


def _policy(data: bytes) -> None:
    """Whatever parses can be shown, linted and compared, and nothing unprintable comes out."""
    policy = parse_policy(data)
    shown = [
        describe_policy(policy, "0" * 64),
        describe_findings(lint_policy(policy)),
        "\n".join(f"{c.before}{c.after}{c.where}" for c in compare_policies(BASE, policy)),
    ]
    assert all(c.isprintable() or c == "\n" for text in shown for c in text)
    json.dumps(policy.to_json())


def _denial(data: bytes) -> None:
    shown = describe_denial(parse_denial(data), containers=BASE.containers)
    assert all(c.isprintable() or c == "\n" for c in shown)


def _fragment(genuine: bytes) -> Callable[[bytes], None]:
    """A changed fragment may parse, but never verifies: only what nobody signed may change."""
    message = parse_sign1(genuine)

    def check(data: bytes) -> None:
        verify_fragment(data)
        seen = parse_sign1(data)
        assert (seen.protected_raw, seen.payload) == (message.protected_raw, message.payload)

    return check
