"""Access tokens of the cloud in a box: what its identity endpoints issue and its vaults check.

Strategy: RS256 tokens of one issuer and one tenant, with the claims that resource servers look at. Workload
identity adds a second signer, the "cluster", whose short-lived tokens are exchanged for access tokens.

Rules: a token is good for exactly one audience; expiry has no leeway, so that expiry can be tested.

Spec: Microsoft identity platform, access token claims version 1.0; RFC 7523 section 2.2.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jose import parse_jws, payload_object, sign_jws, verify_jws
from sidecar.jwk import Jwk, jwk_of_public
from sidecar.local.ca import Issued
from sidecar.strictjson import JsonObject, dump_json

TOKEN_LIFE = 3600  # seconds
EXCHANGE_AUDIENCE = "api://AzureADTokenExchange"


@dataclass(frozen=True, slots=True)
class Identity:
    """Someone a token can speak for; all public.

    Attributes:
        client_id, object_id: GUIDs.
        resource_id: resource path of a user-assigned identity.
    """

    client_id: str
    object_id: str
    resource_id: str = ""


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """One issuer with its key.

    Attributes:
        issuer: the `iss` claim.
        issued: certificate and key; the key is **secret**.
    """

    issuer: str
    issued: Issued

    @property
    def jwk(self) -> Jwk:
        """The public key, named by its thumbprint."""
        public = jwk_of_public(self.issued.key.public_key())
        return Jwk(public.kty, public.numbers, kid=public.thumbprint(), use="sig", alg="RS256")

    def sign(self, claims: JsonObject) -> str:
        """A token of these claims, **secret** while it lives."""
        header = {"typ": "JWT", "alg": "RS256", "kid": self.jwk.kid}
        return sign_jws(header, dump_json({"iss": self.issuer, **claims}), self.issued.key)

    def access_token(
        self, identity: Identity, audience: str, tenant: str, at: datetime, *, life: int = TOKEN_LIFE
    ) -> str:
        """An access token; a life below zero makes one that has expired already."""
        now = int(at.timestamp())
        start = now if life > 0 else now + life - TOKEN_LIFE
        return self.sign(
            {
                "aud": audience,
                "iat": start,
                "nbf": start,
                "exp": now + life,
                "appid": identity.client_id,
                "oid": identity.object_id,
                "sub": identity.object_id,
                "tid": tenant,
                "ver": "1.0",
            }
        )

    def verify(self, token: str, audiences: Sequence[str], at: datetime) -> JsonObject:
        """Check a token of this issuer.

        Args:
            audiences: acceptable `aud` values; a trailing slash does not count.

        Returns:
            its claims.

        Raises:
            VerificationFailed: signature, issuer, audience or times wrong; the message names seen and wanted.
            MalformedInput: not a token.
        """
        jws = parse_jws(token, what="access token")
        jwk = self.jwk
        if jws.kid != jwk.kid:
            raise VerificationFailed("access token: signed by a key this tenant does not have")
        verify_jws(jws, jwk.public_key(), what="access token")
        claims = payload_object(jws, "access token")
        if claims.get("iss") != self.issuer:
            raise VerificationFailed(
                f"access token: issuer {str(claims.get('iss'))[:200]!r}, wanted {self.issuer!r}"
            )
        seen = str(claims.get("aud"))
        if seen.rstrip("/") not in [a.rstrip("/") for a in audiences]:
            raise VerificationFailed(
                f"access token: audience {seen[:200]!r}, wanted {' or '.join(audiences)}"
            )
        _check_life(claims, at)
        return claims


def _check_life(claims: JsonObject, at: datetime) -> None:
    now = at.timestamp()
    nbf, exp = claims.get("nbf"), claims.get("exp")
    if not isinstance(nbf, int) or not isinstance(exp, int):
        raise MalformedInput("access token: nbf or exp is missing")
    if now >= exp:
        raise VerificationFailed(f"access token: expired {now - exp:.0f} s ago")
    # Issued by another process on another clock: a minute early is no reason to refuse.
    if now < nbf - 60:
        raise VerificationFailed(f"access token: valid in {nbf - now:.0f} s only")
