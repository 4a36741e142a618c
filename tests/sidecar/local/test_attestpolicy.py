"""The attestation policy language: documented examples, every refusal, and what a policy decides."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.local.attestpolicy import Outcome, evaluate, parse_policy

CLAIMS: dict[str, Any] = {
    "x-ms-attestation-type": "sevsnpvm",
    "x-ms-sevsnpvm-is-debuggable": False,
    "x-ms-sevsnpvm-vmpl": 0,
    "x-ms-sevsnpvm-microcode-svn": 115,
    "x-ms-sevsnpvm-hostdata": "ab",
    "x-ms-runtime": {"keys": []},
}


def run(authorization: str, issuance: str = "", claims: dict[str, Any] = CLAIMS) -> Outcome:
    text = (
        f"version= 1.0;\nauthorizationrules\n{{\n{authorization}\n}};\nissuancerules\n{{\n{issuance}\n}};\n"
    )
    return evaluate(parse_policy(text), claims)


@pytest.mark.parametrize(
    ("rules", "permitted"),
    [
        ("=> permit();", True),
        ("=>permit();", True),
        ("", False),
        ("=> deny();", False),
        ("=> permit(); => deny();", False),
        ("=> deny(); => permit();", False),
        ('[type=="x-ms-sevsnpvm-is-debuggable", value==false] => permit();', True),
        ('[ type == "x-ms-sevsnpvm-is-debuggable" , value == true ] => permit();', False),
        ('[type=="x-ms-sevsnpvm-vmpl", value==0] && [type=="x-ms-attestation-type"] => permit();', True),
        ('[type=="x-ms-sevsnpvm-vmpl", value==0] && [type=="nothing"] => permit();', False),
        ('[type=="x-ms-sevsnpvm-microcode-svn", value>=115] => permit();', True),
        ('[type=="x-ms-sevsnpvm-microcode-svn", value>115] => permit();', False),
        ('[type=="x-ms-sevsnpvm-microcode-svn", value<116] => permit();', True),
        ('[type=="x-ms-sevsnpvm-microcode-svn", value<=114] => permit();', False),
        ('[type=="x-ms-sevsnpvm-microcode-svn", value!=1] => permit();', True),
        ('[type=="x-ms-sevsnpvm-microcode-svn", value!=115] => permit();', False),
        ('[type=="x-ms-sevsnpvm-hostdata", value=="ab"] => permit();', True),
        ('[type=="x-ms-sevsnpvm-hostdata", value=="AB"] => permit();', False),
        ('[type=="x-ms-sevsnpvm-vmpl", value==false] => permit();', False),
        ('[type=="x-ms-sevsnpvm-is-debuggable", value==0] => permit();', False),
        ('[type=="x-ms-sevsnpvm-hostdata", value>=0] => permit();', False),
        ('[type=="x-ms-runtime"] => permit();', False),
        ('[type=="x-ms-attestation-type", issuer=="AttestationService"] => permit();', True),
        ('[type=="x-ms-attestation-type", issuer=="CustomClaim"] => permit();', False),
        ('[type=="x-ms-sevsnpvm-vmpl", valueType=="Integer"] => permit();', True),
        ('[type=="x-ms-sevsnpvm-is-debuggable", valueType=="Boolean"] => permit();', True),
        ('[type=="x-ms-sevsnpvm-hostdata", valueType=="Boolean"] => permit();', False),
        ('=> add(type="trusted", value=true); [type=="trusted", value==true] => permit();', True),
        ('[type=="trusted", value==true] => permit(); => add(type="trusted", value=true);', False),
        ('=> add(type="t", value=1); [type=="t", issuer=="AttestationPolicy"] => permit();', True),
        ('c:[type=="x-ms-sevsnpvm-vmpl"] && [type=="x-ms-sevsnpvm-vmpl", value==c.value] => permit();', True),
        (
            'c:[type=="x-ms-sevsnpvm-vmpl"] && [type=="x-ms-ver", value==c.value] => permit();',
            False,
        ),
    ],
)
def test_authorization(rules: str, permitted: bool) -> None:
    assert run(rules).permitted is permitted


def test_reasons_are_the_services() -> None:
    assert run("=> deny();").reason == "A Deny claim was issued, authorization failed"
    assert "Permit" in run("").reason


@pytest.mark.parametrize(
    ("rules", "issued"),
    [
        ("", {}),
        ('=> issue(type="level", value=100);', {"level": 100}),
        ('c:[type=="x-ms-sevsnpvm-hostdata"] => issue(type="workload", value=c.value);', {"workload": "ab"}),
        ('c:[type=="absent"] => issue(type="workload", value=c.value);', {}),
        ('=> issue(type="a", value="1"); => issue(type="a", value="2");', {"a": ["1", "2"]}),
        ('=> issue(type="a", value="1"); => issue(type="a", value="1");', {"a": "1"}),
        (
            '=> issue(type="a", value=true); [type=="a", value==true] => issue(type="b", value=false);',
            {"a": True, "b": False},
        ),
        ('=> add(type="a", value="x"); c:[type=="a"] => issue(claim=c);', {"a": "x"}),
        ('c:[type=="x-ms-sevsnpvm-vmpl"] => issue(claim=c);', {}),
    ],
)
def test_issuance(rules: str, issued: dict[str, Any]) -> None:
    assert run("=> permit();", rules).issued == issued


def test_nothing_is_issued_without_a_permit() -> None:
    assert run("=> deny();", '=> issue(type="a", value="1");').issued == {}


def test_claim_passed_on_cannot_take_a_service_name() -> None:
    """Neither directly nor through a reference."""
    sneaky = '=> add(type="a", value="x-ms-compliance-status");'
    sneaky += 'c:[type=="a"] => issue(type=c.value, value="azure-compliant-uvm");'
    assert run("=> permit();", sneaky).issued == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ends in the middle"),
        ("version= 1.0", "ends in the middle"),
        ("version= 2.0;authorizationrules{=>permit();};", "version 2.0"),
        ("version= 1.0;", "no authorizationrules"),
        ("version= 1.0; configurationrules{};", "'configurationrules' is not supported"),
        ("version= 1.0;authorizationrules{};authorizationrules{};", "appears twice"),
        ("version= 1.0;authorizationrules{=>permit()};", "wanted ';'"),
        ("version= 1.0;authorizationrules{=>permit();}", "ends in the middle"),
        (
            'version= 1.0;authorizationrules{=>issue(type="a",value="b");};',
            "action 'issue' in authorizationrules",
        ),
        (
            "version=1.0;authorizationrules{};issuancerules{=>permit();};",
            "action 'permit' in issuancerules",
        ),
        ('version= 1.0;authorizationrules{[typ=="a"]=>permit();};', "property 'typ'"),
        ('version= 1.0;authorizationrules{[type="a"]=>permit();};', "comparison '='"),
        ("version= 1.0;authorizationrules{[type==a.value]=>permit();};", "'a' names no condition"),
        ('version= 1.0;authorizationrules{c:[type=="a"]&&[type==c.size]=>permit();};', "c.size"),
        ("version= 1.0;authorizationrules{[value==1.5]=>permit();};", "wanted a string, an integer"),
        ('version= 1.0;authorizationrules{=>add(type="a");};', "wants type and value"),
        ('version= 1.0;authorizationrules{=>add(type="a",value=1,claim=c);};', "names no condition"),
        ('version= 1.0;authorizationrules{=>add(name="a");};', "argument 'name'"),
        (
            'version=1.0;authorizationrules{};issuancerules{=>issue(type="x-ms-a",value=1);};',
            "belongs to the service",
        ),
        (
            'version=1.0;authorizationrules{};issuancerules{=>issue(type="iss",value="x");};',
            "belongs to the service",
        ),
        ("version= 1.0;\nauthorizationrules\n{\n  # comment\n};", "line 4"),
        ('version= 1.0;authorizationrules{[type=="open]=>permit();};', "cannot be read"),
        ("version= 1.0;authorizationrules{" + "=>permit();" * 257 + "};", "more than 256 rules"),
        ("x" * 70_000, "70000 characters"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        parse_policy(text)


@given(st.text(alphabet='version=1.0;authizules{}[]()&>c:"x ,', max_size=60))
def test_any_text_gives_a_policy_or_the_one_error(text: str) -> None:
    with contextlib.suppress(MalformedInput):
        parse_policy(f"version= 1.0;authorizationrules{{{text}}};")
