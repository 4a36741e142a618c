"""Fault scripts: grammar, counting, and what a rule refuses."""

from __future__ import annotations

import pytest

from sidecar.errors import UsageError
from sidecar.local.faults import Fault, FaultRule, FaultScript, parse_fault


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (
            "akv/release:status=429,retry-after=2,times=3",
            FaultRule("akv", "release", Fault(status=429, retry_after="2"), times=3),
        ),
        ("maa/attest:cut=100", FaultRule("maa", "attest", Fault(cut=100))),
        ("maa:cut=0", FaultRule("maa", "*", Fault(cut=0))),
        ("*:delay=0.25", FaultRule("*", "*", Fault(delay=0.25))),
        (
            "imds/token:expired,after=1",
            FaultRule("imds", "token", Fault(flags=frozenset({"expired"})), after=1),
        ),
        ("maa:clock=-600", FaultRule("maa", "*", Fault(), clock=-600.0)),
        (
            "mhsm:status=403,code=Forbidden,inner=ForbiddenByRbac",
            FaultRule("mhsm", "*", Fault(status=403, code="Forbidden", inner="ForbiddenByRbac")),
        ),
    ],
)
def test_rules(text: str, rule: FaultRule) -> None:
    assert parse_fault(text) == rule


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "wanted SERVICE"),
        ("akv", "wanted SERVICE"),
        ("akv:", "wanted SERVICE"),
        ("vault:status=429", "service 'vault'"),
        ("akv:status=200", "status is '200'"),
        ("akv:status=600", "status is '600'"),
        ("akv:status=", "status is ''"),
        ("akv:status=4٢9", "status is"),
        ("akv:delay=-1", "delay is '-1'"),
        ("akv:delay=nan", "delay is 'nan'"),
        ("akv:delay=9999", "delay is '9999'"),
        ("akv:cut=x", "cut is 'x'"),
        ("akv:times=0", "times is '0'"),
        ("akv:status=429,status=500", "appears twice"),
        ("akv:status=429,foo=1", "unknown item 'foo'"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_fault(text)


def statuses(script: FaultScript, *requests: tuple[str, str]) -> list[int]:
    return [(script.next(*r) or Fault()).status for r in requests]


RELEASE, GET = ("akv", "release"), ("akv", "get")


def test_times_and_after_count_the_requests_of_the_rule() -> None:
    script = FaultScript.parse(["akv/release:status=429,after=1,times=2"])
    assert statuses(script, RELEASE, GET, RELEASE, RELEASE, RELEASE) == [0, 0, 429, 429, 0]


def test_first_active_rule_wins_and_later_ones_still_count() -> None:
    script = FaultScript.parse(["akv/release:status=429,times=1", "akv:status=500,times=2"])
    assert statuses(script, RELEASE, RELEASE, RELEASE) == [429, 500, 0]


def test_rules_fit_their_service_and_route_only() -> None:
    script = FaultScript.parse(["*/get:status=404", "mhsm:status=503"])
    assert statuses(script, GET, RELEASE, ("mhsm", "release"), ("mhsm", "get")) == [404, 0, 503, 404]


def test_clock_rules_shift_and_do_not_answer() -> None:
    script = FaultScript.parse(["maa:clock=-600", "*:clock=1"])
    assert script.clock_shift("maa") == -599
    assert script.clock_shift("akv") == 1
    assert script.next("maa", "attest") is None


@pytest.mark.parametrize(
    ("status", "code"), [(429, "Throttled"), (404, "KeyNotFound"), (503, "InternalServerError")]
)
def test_error_codes(status: int, code: str) -> None:
    assert Fault(status=status).error_code == code
    assert Fault(status=status, code="Own").error_code == "Own"
