"""Who asks the vault: every kind of identity, through the real azure-identity against local services."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from azure.core.credentials import AccessToken as AzureToken
from azure.core.exceptions import ClientAuthenticationError
from fakes.localcloud import Client

from sidecar.config import IdentityKind, IdentitySettings, parse_settings
from sidecar.errors import IdentityError, UsageError
from sidecar.identity import (
    MARGIN_SECONDS,
    AccessToken,
    AzureIdentity,
    GivenToken,
    choose_identity,
    describe_token,
)
from sidecar.jose import parse_jws, payload_object

AUDIENCE = "https://managedhsm.azure.net"


@pytest.fixture(autouse=True)
def azure_is_quiet() -> Iterator[None]:
    """azure-identity warns of every failure that it also raises."""
    azure = logging.getLogger("azure.identity")
    before = azure.level
    azure.setLevel(logging.CRITICAL)
    yield
    azure.setLevel(before)


def claims(token: AccessToken) -> dict[str, Any]:
    return payload_object(parse_jws(token.text))


# -- through azure-identity -------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["client_id", "object_id", "resource_id"])
async def test_a_managed_identity_by_each_of_its_ids(
    start_cloud: Any, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    async with start_cloud(identities=2) as cloud:
        for name, value in cloud.cloud.environment.items():
            monkeypatch.setenv(name, value)
        for chosen in cloud.cloud.identities:
            text = json.dumps({"identity": {which: getattr(chosen, which)}})
            tokens = choose_identity(cloud.cloud.environment, parse_settings(text).identity)
            seen = claims(await tokens.access_token(AUDIENCE))
            assert (seen["oid"], seen["aud"]) == (chosen.object_id, AUDIENCE)
        unnamed = choose_identity(cloud.cloud.environment)
        with pytest.raises(IdentityError) as caught:
            await unnamed.access_token(AUDIENCE)
        assert "client_id" in caught.value.hint
        stranger = IdentitySettings(client_id="00000000-0000-0000-0000-000000000000")
        with pytest.raises(IdentityError):
            await choose_identity(cloud.cloud.environment, stranger).access_token(AUDIENCE)


async def test_workload_identity_wins_where_its_variables_are_set(
    cloud: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = cloud.cloud.environment | cloud.cloud.workload_environment
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9")  # no IMDS
    for settings in (IdentitySettings(), IdentitySettings(IdentityKind.WORKLOAD)):
        token = await choose_identity(environ, settings).access_token(AUDIENCE)
        assert claims(token)["oid"] == cloud.cloud.identities[0].object_id
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", "/nowhere")
    with pytest.raises(IdentityError) as caught:
        await choose_identity(environ).access_token(AUDIENCE)
    assert "AZURE_FEDERATED_TOKEN_FILE" in caught.value.hint


async def test_azure_cli(cloud: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """azure-identity runs the program `az`; here one that answers as the real one does."""
    token = await cloud.access_token(AUDIENCE)
    answer = {"accessToken": token, "expires_on": 4102444800, "tokenType": "Bearer"}
    az = tmp_path / "az"
    az.write_text(f"#!/bin/sh\n[ \"$1\" = version ] || echo '{json.dumps(answer)}'\n")
    az.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tokens = choose_identity({"SIDECAR_IDENTITY": "cli"})
    assert (await tokens.access_token(AUDIENCE)).text == token
    az.write_text("#!/bin/sh\necho \"ERROR: Please run 'az login'\" >&2; exit 1\n")
    with pytest.raises(IdentityError) as caught:
        await choose_identity({}, IdentitySettings(IdentityKind.CLI)).access_token(AUDIENCE)
    assert "az login" in caught.value.hint


async def test_environment(cloud: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client secret goes to the tenant that the environment names, and into no message."""
    environ = cloud.cloud.environment | cloud.cloud.workload_environment
    environ |= {"AZURE_CLIENT_SECRET": "a-secret-of-the-environment"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(IdentityError) as caught:
        await choose_identity(environ, IdentitySettings(IdentityKind.ENVIRONMENT)).access_token(AUDIENCE)
    # The local tenant takes no secrets; that it said so is the proof of who was asked and how.
    assert "AADSTS900144" in str(caught.value)
    assert "a-secret" not in f"{caught.value} {caught.value.hint}"
    for name in ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name)
    with pytest.raises(IdentityError) as caught:
        await choose_identity({}, IdentitySettings(IdentityKind.ENVIRONMENT)).access_token(AUDIENCE)
    assert "AZURE_CLIENT_SECRET" in caught.value.hint


# -- choosing ---------------------------------------------------------------------------------------


def test_a_kind_that_is_none() -> None:
    with pytest.raises(UsageError, match="identity"):
        choose_identity({"SIDECAR_IDENTITY": "somebody"})


@pytest.mark.parametrize(
    "settings",
    [
        {"client_id": "a", "object_id": "b"},
        {"client_id": "a", "resource_id": "b"},
        {"kind": IdentityKind.CLI, "object_id": "b"},
        {"kind": IdentityKind.WORKLOAD, "client_id": "b"},
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        IdentitySettings(**settings)


# -- one cache for all ------------------------------------------------------------------------------


@dataclass
class Credential:
    """Answers from a list: a token's life in seconds, or an error."""

    answers: list[int | Exception]
    now: float = 1000.0
    asked: list[str] = field(default_factory=list)

    def get_token(self, *scopes: str, **_: Any) -> AzureToken:
        self.asked.append(scopes[0])
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return AzureToken(f"t{len(self.asked)}", int(self.now) + answer)


def identity(credential: Credential, **options: Any) -> AzureIdentity:
    return AzureIdentity(lambda: credential, now=lambda: credential.now, **options)  # type: ignore[arg-type, return-value]


async def test_tokens_are_kept_until_a_margin_before_their_end() -> None:
    credential = Credential([1000, 1000, 1000])
    tokens = identity(credential)
    assert (await tokens.access_token("https://a")).text == "t1"
    credential.now += 1000 - MARGIN_SECONDS - 1
    assert (await tokens.access_token("https://a")).text == "t1"
    assert (await tokens.access_token("https://b")).text == "t2"
    credential.now += 1
    assert (await tokens.access_token("https://a")).text == "t3"
    assert credential.asked == ["https://a/.default", "https://b/.default", "https://a/.default"]
    assert tokens.expiries()["https://a"] == credential.now + 1000


async def test_many_who_ask_at_once_share_one_request() -> None:
    credential = Credential([1000])
    tokens = identity(credential)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(tokens.access_token, "https://a")
    assert len(credential.asked) == 1


async def test_a_token_that_was_not_accepted_is_asked_for_anew() -> None:
    credential = Credential([1000, 1000])
    made = 0

    def make() -> Credential:
        nonlocal made
        made += 1
        return credential

    tokens = AzureIdentity(make, now=lambda: credential.now)  # type: ignore[arg-type]
    await tokens.access_token("https://a")
    tokens.forget("https://a")
    assert (await tokens.access_token("https://a")).text == "t2"
    assert made == 2, "azure-identity has a cache of its own, in the credential"


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jumping clock takes a task that waits for a thread as idle."""

    async def inline(call: Any, *args: Any, **_: Any) -> Any:
        return call(*args)

    monkeypatch.setattr("trio.to_thread.run_sync", inline)


async def test_a_server_waits_for_an_identity_that_starts_beside_it(
    autojump_clock: None, no_threads: None
) -> None:
    late = ClientAuthenticationError("no response from the IMDS endpoint")
    credential = Credential([late, late, 1000, late])
    tokens = identity(credential, patience=30)
    assert (await tokens.access_token("https://a")).text == "t3"
    with pytest.raises(IdentityError):
        await tokens.access_token("https://b")
    assert len(credential.asked) == 4, "once it was there, a failure is one"
    impatient = Credential([late])
    with pytest.raises(IdentityError, match="no response"):
        await identity(impatient).access_token("https://a")
    endless = Credential([late] * 100)
    with pytest.raises(IdentityError):
        await identity(endless, patience=30).access_token("https://a")
    assert 10 <= len(endless.asked) <= 31


async def test_a_credential_that_hangs_is_given_up(autojump_clock: None) -> None:
    class Hanging(AzureIdentity):
        def _fetch_blocking(self, audience: str) -> AccessToken:
            raise AssertionError("not reached")

    hang = Hanging(lambda: Credential([]))  # type: ignore[arg-type, return-value]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("trio.to_thread.run_sync", lambda *_, **__: trio.sleep_forever())
        with pytest.raises(IdentityError, match="none within"):
            await hang.access_token("https://a")


async def test_a_callers_token_is_used_as_it_is() -> None:
    given = GivenToken("text")
    given.forget("https://a")
    assert (await given.access_token("https://a")).text == "text"
    assert "text" not in repr(await given.access_token("https://a"))
    assert given.expiries() == {}


async def test_a_token_is_described_by_names_only(cloud: Client) -> None:
    text = await cloud.access_token(AUDIENCE)
    words = describe_token(AccessToken(text))
    assert cloud.cloud.identities[0].object_id in words
    assert AUDIENCE in words
    assert text.split(".")[2] not in words
    assert describe_token(AccessToken("opaque")) == "a token that is no JWT"
