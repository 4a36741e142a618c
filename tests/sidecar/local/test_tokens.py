"""Access tokens: one issuer, one audience, no leeway at their end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from fakes import pki

from sidecar.errors import MalformedInput, SidecarError, VerificationFailed
from sidecar.local.tokens import Identity, TokenSigner

SIGNER = TokenSigner("https://sts/tenant/", pki.self_signed())
WHO = Identity("client", "object")
AUDIENCE = "https://vault.azure.net"


def token(signer: TokenSigner = SIGNER, audience: str = AUDIENCE, **options: Any) -> str:
    return signer.access_token(WHO, audience, "tenant", pki.NOW, **options)


def test_claims_and_a_second_implementation() -> None:
    claims = SIGNER.verify(token(), [AUDIENCE], pki.NOW)
    assert (claims["appid"], claims["oid"], claims["tid"], claims["aud"]) == (
        "client",
        "object",
        "tenant",
        AUDIENCE,
    )
    key = SIGNER.issued.certificate.public_key()
    theirs = jwt.decode(
        token(),
        key,
        algorithms=["RS256"],
        audience=AUDIENCE,
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )  # type: ignore[arg-type]
    assert theirs == claims


@pytest.mark.parametrize("audience", [AUDIENCE, AUDIENCE + "/"])
def test_trailing_slash_does_not_count(audience: str) -> None:
    SIGNER.verify(token(audience=audience), [AUDIENCE], pki.NOW)


@pytest.mark.parametrize(
    ("made", "seconds", "reason"),
    [
        (token(audience="https://managedhsm.azure.net"), 0, "audience 'https://managedhsm.azure.net'"),
        (token(), 3600, "expired 0 s ago"),
        (token(life=-60), 0, "expired 60 s ago"),
        (token(), -61, "valid in 61 s only"),
        (token(replace(SIGNER, issuer="https://other/")), 0, "issuer 'https://other/'"),
        (token(replace(SIGNER, issued=pki.leaf())), 0, "a key this tenant does not have"),
        (token()[:-4] + "AAAA", 0, "signature is wrong"),
    ],
)
def test_refused(made: str, seconds: int, reason: str) -> None:
    with pytest.raises(VerificationFailed, match=reason):
        SIGNER.verify(made, [AUDIENCE], pki.NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize("made", ["", "x", "a.b.c", SIGNER.sign({"aud": AUDIENCE})])
def test_no_token_at_all(made: str) -> None:
    with pytest.raises(SidecarError):
        SIGNER.verify(made, [AUDIENCE], pki.NOW)
    with pytest.raises(MalformedInput):
        SIGNER.verify("x", [AUDIENCE], pki.NOW)


def test_lives_until_its_last_second() -> None:
    SIGNER.verify(token(), [AUDIENCE], pki.NOW + timedelta(seconds=3599))
    SIGNER.verify(token(), [AUDIENCE], pki.NOW - timedelta(seconds=60))
