"""The explainer: what is said for each way in which a key is not released, live and from values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fakes.localcloud import Client

from sidecar.akv import parse_key_ref
from sidecar.client import open_guest
from sidecar.errors import MalformedInput
from sidecar.explain import explain, refusal_words
from sidecar.explaining import LiveExplanation, explain_live, suggest_policy
from sidecar.jwk import jwk_of_secret
from sidecar.releasepolicy import build_policy, evaluate, parse_policy
from sidecar.services import Services, open_services

HOST_DATA = "x-ms-sevsnpvm-hostdata"
DEBUG = "x-ms-sevsnpvm-is-debuggable"
AUTHORITY = "https://a.attest.azure.net"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TOKEN = {
    "iss": AUTHORITY,
    "exp": int(NOW.timestamp()) + 100,
    "nbf": int(NOW.timestamp()) - 100,
    HOST_DATA: "aa" * 32,
    DEBUG: False,
    "x-ms-sevsnpvm-vmpl": 0,
    "x-ms-attestation-type": "sevsnpvm",
    "x-ms-sevsnpvm-launchmeasurement": "cc" * 48,
    "x-ms-runtime": {"keys": [{"kid": "k"}]},
}


def policy(*clauses: list[tuple[str, Any]], authority: str = AUTHORITY) -> Any:
    return build_policy([authority], clauses)


# -- from values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "changed", "words", "hint"),
    [
        ([(HOST_DATA, "bb" * 32)], {}, ["bb" * 32, "aa" * 32, "is not the one"], "--policy-digest"),
        ([(HOST_DATA, "bb" * 32)], {HOST_DATA: "00" * 32}, ["without a security policy"], "bb" * 32),
        ([(HOST_DATA, "AA" * 32)], {}, ["capital letters only"], "lower-case"),
        ([(DEBUG, "false")], {DEBUG: True}, ["host may read", "is true"], "debug bit"),
        ([(DEBUG, "true")], {}, ["asks for debuggable guests"], "should say false"),
        ([("x-ms-sevsnpvm-vmpl", "2")], {}, ["privilege level 0"], "attest from the level"),
        ([("x-ms-attestation-type", "azurevm")], {}, ["another kind of guest"], "kind the policy names"),
        ([("x-ms-compliance-status", "azure-compliant-uvm")], {}, ["absent"], "reference info"),
        ([("x-ms-sevsnpvm-launchmeasurement", "dd" * 48)], {}, ["booted another image"], "alternative"),
        ([("x-ms-sevsnpvm-microcode-svn", "9")], {"x-ms-sevsnpvm-microcode-svn": 10}, ["firmware"], "policy"),
        ([("x-ms-runtime", "x")], {}, ["equal to nothing"], "with dots"),
        ([("x-ms-no-such", "x")], {}, ["no such claim"], "spelling"),
        ([("X-MS-SevSnpVM-VMPL", "0")], {}, ["no claim of that name"], "x-ms-sevsnpvm-vmpl?"),
        (
            [(HOST_DATA, "aa" * 32)],
            {"x-ms-isolation-tee": {HOST_DATA: "aa" * 32}, HOST_DATA: None},
            ["equal to nothing"],
            "",
        ),
    ],
)
def test_each_failure_is_explained(
    claims: list[tuple[str, Any]], changed: dict[str, Any], words: list[str], hint: str
) -> None:
    found = explain(policy(claims), TOKEN | changed, at=NOW)
    assert not found.granted
    text = found.to_text()
    assert text.startswith("the key is refused: ")
    for word in words:
        assert word in text
    assert hint in "\n".join(found.hints())
    told = found.to_dict()
    assert (told["released"], told["reason"] != "") == (False, True)
    assert f"FAIL {claims[0][0]} = " in text


def test_every_miss_is_named_and_what_holds_is_shown() -> None:
    wanted = [(HOST_DATA, "bb" * 32), (DEBUG, "true"), ("x-ms-sevsnpvm-vmpl", "0")]
    message, hint = refusal_words(evaluate(policy(wanted), TOKEN))
    assert f"{HOST_DATA} is {'aa' * 32}, wanted {'bb' * 32}" in message
    assert f"{DEBUG} is false, wanted true" in message
    assert "vmpl" not in message
    assert "--policy-digest" in hint
    text = explain(policy(wanted), TOKEN).to_text()
    assert "pass x-ms-sevsnpvm-vmpl = 0" in text
    assert text.count("FAIL x-ms") == 2


def test_of_several_clauses_the_nearest_is_meant() -> None:
    far = [(HOST_DATA, "bb" * 32), (DEBUG, "true")]
    near = [(HOST_DATA, "aa" * 32), (DEBUG, "true")]
    message, _ = refusal_words(evaluate(policy(far, near), TOKEN))
    assert HOST_DATA not in message


def test_alternatives_are_one_miss() -> None:
    wanted = {"anyOf": [{"claim": HOST_DATA, "equals": "bb" * 32}, {"claim": HOST_DATA, "equals": "cc" * 32}]}
    made = parse_policy({"version": "1.0.0", "anyOf": [{"authority": AUTHORITY, **wanted}]})
    message, _ = refusal_words(evaluate(made, TOKEN))
    assert f"wanted {'bb' * 32} or {'cc' * 32}" in message
    assert message.count(HOST_DATA) == 1


def test_another_authority_is_told() -> None:
    found = explain(policy([(DEBUG, "false")], authority="https://b.attest.azure.net"), TOKEN, at=NOW)
    assert f"issued by {AUTHORITY}, wanted https://b.attest.azure.net" in found.to_text()
    assert "attest with b.attest.azure.net" in found.hints()[0]


@pytest.mark.parametrize(
    ("moved", "words"), [(timedelta(hours=9), "expired"), (timedelta(hours=-9), "is valid in")]
)
def test_a_token_out_of_its_time_releases_nothing(moved: timedelta, words: str) -> None:
    found = explain(policy([(DEBUG, "false")]), TOKEN, at=NOW + moved)
    assert not found.granted
    assert words in found.to_text()
    assert "attest again" in found.hints()[0]


def test_a_policy_that_is_met() -> None:
    found = explain(policy([(DEBUG, "false"), (HOST_DATA, "aa" * 32)]), TOKEN, at=NOW)
    assert found.granted
    assert found.to_text().startswith("the key would be released")
    assert (found.hints(), found.to_dict()["reason"]) == ([], "")


def test_what_a_token_says_stays_on_its_line() -> None:
    evil = "\x1b[31mreleased\nthe key would be released" + "x" * 1000
    text = explain(
        policy([("x-ms-attestation-type", "sevsnpvm")]), TOKEN | {"x-ms-attestation-type": evil}
    ).to_text()
    assert "\x1b" not in text
    assert not any(line.startswith("the key would") for line in text.splitlines())
    assert max(map(len, text.splitlines())) < 500


# -- suggest ----------------------------------------------------------------------------------------


def test_a_suggested_policy_is_met_by_its_guest_and_by_no_other() -> None:
    made = suggest_policy(TOKEN)
    assert evaluate(made, TOKEN).granted
    for other in ({HOST_DATA: "bb" * 32}, {DEBUG: True}, {"x-ms-sevsnpvm-vmpl": 1}, {"iss": "https://x"}):
        assert not evaluate(made, TOKEN | other).granted


def test_nothing_is_suggested_for_a_guest_that_can_be_debugged() -> None:
    with pytest.raises(MalformedInput, match="debugged"):
        suggest_policy(TOKEN | {DEBUG: True})
    with pytest.raises(MalformedInput):
        suggest_policy({"iss": AUTHORITY})
    with pytest.raises(MalformedInput):
        suggest_policy({HOST_DATA: "aa" * 32})


# -- live -------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(cloud: Client, **options: Any) -> AsyncIterator[tuple[Services, dict[str, str]]]:
    environ = dict(cloud.cloud.environment)
    async with open_services(environ, **options) as services:
        yield services, environ


async def explained(
    cloud: Client, *, kid: str = "data", attempt: bool = True, **options: Any
) -> LiveExplanation:
    """What is said about a key of the managed HSM; `options` as for `open_services`."""
    async with opened(cloud, **options) as (services, environ):
        guest = await open_guest(services.http, environ)
        authority = services.authority(environ["MAA_ENDPOINT"])
        vault = services.vault(environ["MHSM_ENDPOINT"])
        key = parse_key_ref(kid)
        return await explain_live(guest, authority, vault, key, at=datetime.now(UTC), attempt=attempt)


async def imported(cloud: Client, digest: str = "00" * 32) -> None:
    made = build_policy([cloud.cloud.url("maa")], [[(HOST_DATA, digest)]])
    await cloud.imported("mhsm", "data", jwk_of_secret(bytes(32), kty="oct-HSM", key_ops=("encrypt",)), made)


async def test_live_and_released(here: Client) -> None:
    await imported(here)
    found = await explained(here)
    assert (found.granted, found.tried, found.released) == (True, True, True)
    assert found.to_text().endswith("the release was tried, and succeeded")
    untried = await explained(here, attempt=False)
    assert (untried.granted, untried.tried) == (True, False)
    assert "tried" not in untried.to_text()


async def test_live_and_refused_by_the_policy(here: Client) -> None:
    await imported(here, "ab" * 32)
    found = await explained(here)
    assert (found.granted, found.tried) == (False, False), "the vault need not be asked"
    assert "ab" * 32 in found.to_text()
    assert found.to_dict()["released"] is False


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "mhsm/release:status=403,code=Forbidden,inner=ForbiddenByRbac",
            "Crypto Service Release User",
        ),
        ("mhsm/release:status=403,code=Forbidden,inner=ForbiddenByFirewall", "firewall"),
        ("mhsm/release:status=404,code=KeyNotFound", "was not deleted"),
    ],
)
async def test_live_what_only_the_vault_knows(
    start_cloud: Any, quiet: None, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    async with start_cloud(faults=(fault,)) as cloud:
        for name, value in cloud.cloud.environment.items():
            monkeypatch.setenv(name, value)
        await imported(cloud)
        found = await explained(cloud)
        assert (found.granted, found.tried) == (False, True)
        assert found.policy is not None
        assert found.policy.granted
        assert words in found.to_text()
        assert found.to_text().endswith("the release was tried, and refused")


async def test_live_without_leave_to_read_the_key(
    start_cloud: Any, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role that releases need not read: then only trying says whether it works."""
    fault = "mhsm/get:status=403,code=Forbidden,inner=ForbiddenByRbac"
    async with start_cloud(faults=(fault,)) as cloud:
        for name, value in cloud.cloud.environment.items():
            monkeypatch.setenv(name, value)
        await imported(cloud)
        found = await explained(cloud)
        assert (found.policy, found.released, found.granted) == (None, True, True)
        await imported_other(cloud)
        refused = await explained(cloud, kid="other")
        assert (refused.policy, refused.granted) == (None, False)
        assert "may not read the key" in refused.to_text()
        assert "sidecar explain --maa HOST --policy FILE" in refused.to_text()


async def imported_other(cloud: Client) -> None:
    made = build_policy([cloud.cloud.url("maa")], [[(HOST_DATA, "ab" * 32)]])
    await cloud.imported("mhsm", "other", jwk_of_secret(bytes(32), kty="oct-HSM", key_ops=("encrypt",)), made)


async def test_live_with_a_token_for_another_audience(here: Client) -> None:
    await imported(here)
    token = await here.access_token("https://vault.azure.net")
    found = await explained(here, access_token=token)
    assert not found.granted
    text = found.to_text()
    assert "aud https://vault.azure.net" in text
    assert "it wants one for https://managedhsm.azure.net" in text
    assert token not in text


async def test_live_a_key_that_is_not_there(here: Client) -> None:
    found = await explained(here)
    assert not found.granted
    assert "404" in found.to_text()


async def test_live_a_key_that_is_disabled(here: Client) -> None:
    await imported(here)
    answer = await here.keys("mhsm", "PATCH", "/keys/data", b'{"attributes":{"enabled":false}}')
    assert answer.status_code == 200, answer.text
    found = await explained(here)
    assert not found.granted
    assert "disabled" in found.to_text()
