"""Authority and vault as a hostile or failing peer plays them: typed errors that say what to check."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from sidecar import maa
from sidecar.errors import (
    AttestationRefused,
    IdentityError,
    MalformedInput,
    ReleaseRefused,
    ServiceError,
    SidecarError,
    VerificationFailed,
)
from sidecar.hosts import Hosts
from sidecar.http import Http
from sidecar.identity import AccessToken, AzureIdentity, GivenToken
from sidecar.jwk import jwk_of_public
from sidecar.services import Authority, Vault

Answer = Callable[[httpx.Request], httpx.Response]
REQUEST = maa.AttestRequest(bytes(1184), b"pem", runtime_data=b"{}", nonce="7")
AUTHORITY = Hosts.of({}).authority("shared.eus.attest.azure.net")
VAULT = Hosts.of({}).vault("v.vault.azure.net")


def http(answer: Answer) -> Http:
    return Http(ssl.create_default_context(), transport=httpx.MockTransport(answer))


def error(status: int, code: str, message: str = "words", inner: str = "", **headers: str) -> Answer:
    body: dict[str, object] = {"code": code, "message": message}
    if inner:
        body["innererror"] = {"code": inner}
    return lambda _: httpx.Response(status, json={"error": body}, headers=headers)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (error(400, "InvalidParameter"), AttestationRefused, "status 400 InvalidParameter: words"),
        (error(400, "PolicyEvaluationError"), AttestationRefused, "PolicyEvaluationError"),
        (error(401, "Unauthorized"), AttestationRefused, "401"),
        (error(503, "ServerBusy"), ServiceError, "503"),
        (error(429, "Throttled", **{"retry-after": "1"}), ServiceError, "429"),
        (lambda _: httpx.Response(200, content=b"not json"), MalformedInput, "attest response"),
        (lambda _: httpx.Response(200, json={}), MalformedInput, "token"),
        (lambda _: httpx.Response(200, json={"token": 5}), MalformedInput, "token"),
        (
            lambda _: httpx.Response(302, headers={"location": "https://evil.example/"}),
            AttestationRefused,
            "302",
        ),
        (lambda _: httpx.Response(400, content=b"\xff\x00garbage"), AttestationRefused, "status 400"),
        (error(400, "X\x1b[31m", "a\nb"), AttestationRefused, "a b"),
    ],
)
async def test_authority_errors(
    autojump_clock: object, answer: Answer, kind: type[SidecarError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        await Authority(http(answer), AUTHORITY).attest(REQUEST)
    assert words in str(caught.value)
    assert "\x1b" not in str(caught.value)
    if kind is not MalformedInput:
        assert "shared.eus.attest.azure.net" in str(caught.value)
        assert caught.value.hint


def token(key: rsa.RSAPrivateKey, **changes: object) -> str:
    now = int(datetime.now(UTC).timestamp())
    claims = {
        "iss": AUTHORITY.url,
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "nonce": "7",
        "x-ms-sevsnpvm-reportdata": maa.report_data_for(b"{}").hex(),
    } | changes
    return maa.sign_token(claims, key, kid="k", issuer=AUTHORITY.url)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonce": "8"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"iss": "https://evil.attest.azure.net"}, "issuer"),
        ({"exp": 1}, "expired"),
        ({"nbf": 4_000_000_000}, "valid in"),
        ({"x-ms-sevsnpvm-reportdata": "00" * 64}, "report data"),
    ],
)
def test_a_token_that_is_not_for_us_is_refused(changes: dict[str, object], words: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    keys = (jwk_of_public(key.public_key(), kid="k"),)
    at = datetime.now(UTC)
    asked = {"issuer": AUTHORITY.url, "at": at, "nonce": "7", "runtime_data": b"{}"}
    assert maa.verify_token(token(key), keys, **asked)  # type: ignore[arg-type]
    with pytest.raises((VerificationFailed, MalformedInput)) as caught:
        maa.verify_token(token(key, **changes), keys, **asked)  # type: ignore[arg-type]
    assert words in str(caught.value)


class Tokens:
    """A token source that counts."""

    def __init__(self) -> None:
        self.fetched = 0
        self.forgotten = 0

    async def access_token(self, audience: str) -> AccessToken:
        assert audience == "https://vault.azure.net"
        self.fetched += 1
        return AccessToken(f"TOPSECRET{self.fetched}")

    def forget(self, audience: str) -> None:
        self.forgotten += 1


@pytest.mark.parametrize(
    ("answer", "kind", "words", "hint"),
    [
        (error(403, "Forbidden", inner="ForbiddenByRbac"), ReleaseRefused, "ForbiddenByRbac", "Release User"),
        (error(403, "Forbidden", inner="AccessDenied"), ReleaseRefused, "AccessDenied", "release"),
        (error(403, "Forbidden", inner="ForbiddenByFirewall"), ReleaseRefused, "Firewall", "firewall"),
        (error(404, "KeyNotFound"), ReleaseRefused, "404 KeyNotFound", "name and version"),
        (error(409, "Conflict", inner="ObjectIsDeletedButRecoverable"), ReleaseRefused, "409", "recover"),
        (error(429, "Throttled"), ServiceError, "429", "throttling"),
        (error(500, "InternalError"), ServiceError, "500", "failing"),
        (error(401, "Unauthorized"), IdentityError, "401", "https://vault.azure.net"),
    ],
)
async def test_vault_errors(
    autojump_clock: object, answer: Answer, kind: type[SidecarError], words: str, hint: str
) -> None:
    with pytest.raises(kind) as caught:
        await Vault(http(answer), VAULT, Tokens(), ()).call("POST", "/keys/x/release", b"{}")
    assert words in str(caught.value)
    assert hint in caught.value.hint
    assert "TOPSECRET" not in str(caught.value) + caught.value.hint


async def test_a_401_gets_a_new_token_once() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(401 if len(seen) == 1 else 200, json={})

    tokens = Tokens()
    await Vault(http(answer), VAULT, tokens, ()).call("GET", "/keys")
    assert seen == ["Bearer TOPSECRET1", "Bearer TOPSECRET2"]
    assert tokens.forgotten == 1


class Credential:
    """Stands for an azure-identity credential."""

    def __init__(self, expires_on: int) -> None:
        self.calls: list[str] = []
        self.expires_on = expires_on

    def get_token(self, scope: str) -> AccessToken:
        self.calls.append(scope)
        found = AccessToken(f"t{len(self.calls)}")
        return type("T", (), {"token": found.text, "expires_on": self.expires_on})()


async def test_tokens_are_shared_and_renewed_with_margin() -> None:
    import trio

    now = [1000.0]
    credential = Credential(2000)
    source = AzureIdentity(lambda: credential, now=lambda: now[0])  # type: ignore[arg-type,return-value]
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(source.access_token, "https://vault.azure.net")
    assert credential.calls == ["https://vault.azure.net/.default"]
    now[0] = 1701  # within five minutes of the end
    credential.expires_on = 9000
    assert (await source.access_token("https://vault.azure.net")).text == "t2"
    source.forget("https://vault.azure.net")
    assert (await source.access_token("https://vault.azure.net")).text == "t3"


async def test_a_callers_token_is_used_as_it_is_and_not_shown() -> None:
    source = GivenToken("TOPSECRET")
    found = await source.access_token("https://anything")
    assert found.text == "TOPSECRET"
    assert "TOPSECRET" not in repr(found)
