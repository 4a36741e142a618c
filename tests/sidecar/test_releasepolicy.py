"""Release policies: grammar, comparison, and that a refusal names what was seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.releasepolicy import (
    ABSENT,
    build_policy,
    evaluate,
    find_claim,
    loosely_equal,
    parse_policy,
    same_authority,
)

ISSUER = "https://authority.example"
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "x-ms-attestation-type": "sevsnpvm",
    "x-ms-sevsnpvm-hostdata": "ab" * 32,
    "x-ms-sevsnpvm-is-debuggable": False,
    "x-ms-sevsnpvm-vmpl": 0,
    "x-ms-isolation-tee": {"x-ms-compliance-status": "azure-compliant-cvm", "inner": {"deep": 7}},
    "list": [{"a": 1}],
    "null": None,
}


def policy(*conditions: Any, kind: str = "allOf", authority: str = ISSUER) -> dict[str, Any]:
    return {"version": "1.0.0", "anyOf": [{"authority": authority, kind: list(conditions)}]}


def equals(claim: str, value: Any) -> dict[str, Any]:
    return {"claim": claim, "equals": value}


def granted(document: dict[str, Any], claims: dict[str, Any] = CLAIMS) -> bool:
    return evaluate(parse_policy(document), claims).granted


GOOD, BAD = equals("x-ms-attestation-type", "sevsnpvm"), equals("x-ms-attestation-type", "sgx")


@pytest.mark.parametrize(
    ("document", "outcome"),
    [
        (policy(GOOD), True),
        (policy(BAD), False),
        (policy(GOOD, BAD), False),
        (policy(GOOD, BAD, kind="anyOf"), True),
        (policy(BAD, BAD, kind="anyOf"), False),
        (policy(equals("x-ms-isolation-tee.x-ms-compliance-status", "azure-compliant-cvm")), True),
        (policy(equals("x-ms-isolation-tee.inner.deep", 7)), True),
        (policy(equals("x-ms-isolation-tee.nothing", "x")), False),
        (policy(equals("x-ms-isolation-tee", "x")), False),
        (policy(equals("list.0.a", 1)), False),
        (policy(equals("null", "null")), False),
        (policy(GOOD, {"anyOf": [BAD, {"allOf": [GOOD, GOOD]}]}), True),
        (policy(GOOD, {"anyOf": [BAD, {"allOf": [GOOD, BAD]}]}), False),
        (policy(GOOD, authority="https://other.example"), False),
        (policy(GOOD, authority=ISSUER + "/"), True),
        (policy(GOOD, authority="authority.example"), True),
        (policy(GOOD, authority="http://authority.example"), False),
        ({"version": "1.0", "anyOf": [policy(BAD)["anyOf"][0], policy(GOOD)["anyOf"][0]]}, True),
        ({"version": "0.2", "anyOf": [policy(BAD)["anyOf"][0]]}, False),
    ],
)
def test_decisions(document: dict[str, Any], outcome: bool) -> None:
    assert granted(document) is outcome
    assert parse_policy(parse_policy(document).to_bytes()) == parse_policy(document)


@pytest.mark.parametrize(
    ("wanted", "seen", "outcome"),
    [
        ("true", True, True),
        (True, "true", True),
        (True, True, True),
        ("True", True, False),
        ("false", False, True),
        (False, False, True),
        (True, False, False),
        ("0", 0, True),
        (0, "0", True),
        (0, 0, True),
        (0, 0.0, True),
        ("00", 0, False),
        (115, "115", True),
        (1, True, False),
        (True, 1, False),
        (0, False, False),
        (False, 0, False),
        ("1", True, False),
        ("ab", "AB", False),
        ("", "", True),
        ("", None, False),
        ("", ABSENT, False),
        ("[]", [], False),
        ("{}", {}, False),
        ("absent", ABSENT, False),
    ],
)
def test_loose_comparison(wanted: Any, seen: object, outcome: bool) -> None:
    assert loosely_equal(wanted, seen) is outcome


@given(st.dictionaries(st.text(max_size=3), st.none() | st.text(max_size=3)), st.text(min_size=1, max_size=5))
def test_find_claim_never_raises(claims: dict[str, object], name: str) -> None:
    found = find_claim(claims, name)
    assert (found is ABSENT) == ("." in name or name not in claims)


def test_token_without_issuer_is_never_granted() -> None:
    for iss in (None, "", 5, "/"):
        assert not granted(policy(GOOD), {**CLAIMS, "iss": iss})
    assert not same_authority("https://", "")


def test_only_the_clause_of_the_issuer_counts() -> None:
    """A clause that another authority's token would meet must not help ours."""
    document = {
        "version": "1.0.0",
        "anyOf": [policy(BAD)["anyOf"][0], policy(GOOD, authority="https://evil.example")["anyOf"][0]],
    }
    outcome = evaluate(parse_policy(document), CLAIMS)
    assert not outcome.granted
    assert [a.matches for a in outcome.authorities] == [True, False]
    assert [a.rule.ok for a in outcome.authorities] == [False, True]


def test_failures_name_claim_wanted_and_seen() -> None:
    document = policy(
        GOOD,
        equals("x-ms-sevsnpvm-hostdata", "cd" * 32),
        equals("x-ms-compliance-status", "azure-compliant-uvm"),
        {"anyOf": [BAD, equals("x-ms-sevsnpvm-vmpl", 1)]},
    )
    outcome = evaluate(parse_policy(document), CLAIMS)
    found = [(r.claim, r.wanted, r.seen) for _, r in outcome.failures()]
    assert found == [
        ("x-ms-sevsnpvm-hostdata", "cd" * 32, "ab" * 32),
        ("x-ms-compliance-status", "azure-compliant-uvm", ABSENT),
        ("x-ms-attestation-type", "sgx", "sevsnpvm"),
        ("x-ms-sevsnpvm-vmpl", 1, 0),
    ]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "version"),
        ({"version": "1.0.0"}, "anyOf: is null"),
        ({"version": "2.0", "anyOf": [1]}, "version '2.0'"),
        ({"version": "1.0.0", "anyOf": []}, "anyOf is empty"),
        ({"version": "1.0.0", "anyOf": [], "allOf": []}, "unknown member 'allOf'"),
        ({"version": "1.0.0", "anyOf": ["x"]}, "anyOf\\[0\\]: is a string"),
        (policy(), "allOf: is empty"),
        (policy(authority="", kind="allOf"), "authority is empty"),
        ({"version": "1.0", "anyOf": [{"authority": ISSUER}]}, "holds 0 of allOf and anyOf"),
        ({"version": "1.0", "anyOf": [{"authority": ISSUER, "allOf": [GOOD], "anyOf": [GOOD]}]}, "holds 2"),
        (policy({"claim": "a"}), "has no 'equals'"),
        (policy({"claim": "a", "equals": None}), "neither a string"),
        (policy({"claim": "a", "equals": {}}), "neither a string"),
        (policy({"claim": "a", "greater": 1}), "operator 'greater'"),
        (policy({"claim": "a", "equals": 1, "notEquals": 2}), "operator 'notEquals'"),
        (policy({"claim": "a", "equals": 1, "x": 2}), "unknown member 'x'"),
        (policy({"claim": "a..b", "equals": 1}), "empty part"),
        (policy({"claim": "", "equals": 1}), "empty part"),
        (policy({"claim": 5, "equals": 1}), "claim: is a number"),
        (policy({"allOf": []}), "is empty"),
        (policy({"allOf": [GOOD], "x": 1}), "unknown member 'x'"),
        (policy(*[GOOD] * 65), "65 items"),
    ],
)
def test_refused(document: dict[str, Any], reason: str) -> None:
    for form in (document, json.dumps(document).encode()):
        with pytest.raises(MalformedInput, match=reason):
            parse_policy(form)


def test_nesting_is_bounded() -> None:
    inner: dict[str, Any] = GOOD
    for _ in range(20):
        inner = {"allOf": [inner]}
    with pytest.raises(MalformedInput, match="nested more than"):
        parse_policy(policy(inner))


def test_trailing_comma_is_not_json() -> None:
    """One of the predecessor's example policies has one."""
    text = json.dumps(policy(GOOD)).replace('"sevsnpvm"}]', '"sevsnpvm"},]')
    with pytest.raises(MalformedInput, match="not JSON"):
        parse_policy(text.encode())


def test_build_crosses_authorities_and_clauses() -> None:
    built = build_policy(["https://a", "https://b"], [[("x", "1"), ("y", True)], [("z", 3)]])
    assert built.to_dict() == {
        "version": "1.0.0",
        "anyOf": [
            {"authority": "https://a", "allOf": [equals("x", "1"), equals("y", True)]},
            {"authority": "https://a", "allOf": [equals("z", 3)]},
            {"authority": "https://b", "allOf": [equals("x", "1"), equals("y", True)]},
            {"authority": "https://b", "allOf": [equals("z", 3)]},
        ],
    }
    with pytest.raises(MalformedInput, match="is empty"):
        build_policy(["https://a"], [[]])
    with pytest.raises(MalformedInput, match="is empty"):
        build_policy([], [[("x", 1)]])
