"""Who may do what to a blob: shared access signatures, access tokens, public containers.

Strategy: one `Permission` per operation. A signature is checked by computing it anew from the query, a token
by the tenant's signer; without either, only reading from a public container is allowed.

Rules: signatures are compared in constant time; a signature is never part of a message. Every identity of the
local tenant counts as a data contributor: roles are not imitated, a fault script can refuse.

Spec: Azure Storage, Create an account SAS, Create a service SAS (string-to-sign of version 2020-12-06 and
later); Authorize with Microsoft Entra ID.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from urllib.parse import urlencode

from sidecar.errors import SidecarError
from sidecar.local.refusal import Refusal
from sidecar.local.tokens import TokenSigner
from sidecar.web import WebRequest

VERSION = "2023-11-03"
_FIRST_VERSION = "2020-12-06"  # before it, the string to sign was another
_ACCOUNT_FIELDS = ("sp", "ss", "srt", "st", "se", "sip", "spr", "sv", "ses")
_FORMATS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d")


class Permission(StrEnum):
    """As a signature's `sp` abbreviates them."""

    READ = "r"
    WRITE = "w"
    CREATE = "c"
    DELETE = "d"


@dataclass(frozen=True, slots=True)
class Resource:
    """What a request is about: a container, or a blob in it."""

    account: str
    container: str
    blob: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides about every request.

    Attributes:
        key: of the account, base64, secret.
        tokens: whose access tokens count.
        audiences: acceptable ones.
        challenge: where a client without a token is sent.
    """

    key: str = field(repr=False)
    tokens: TokenSigner
    audiences: Sequence[str]
    challenge: str

    def check(
        self,
        request: WebRequest,
        resource: Resource,
        wanted: Sequence[Permission],
        *,
        public: bool,
        now: datetime,
    ) -> None:
        """Let a request pass or refuse it.

        Args:
            wanted: any of these permissions suffices.
            public: the container may be read by anybody.
        """
        header = request.headers.get("authorization", "")
        if header:
            self._check_token(header, now)
        elif "sig" in request.query:
            check_signature(self.key, request.query, resource, wanted, now)
        elif not (public and Permission.READ in wanted and resource.blob):
            authority = (
                f"Bearer authorization_uri={self.challenge}/oauth2/authorize resource_id={self.audiences[0]}"
            )
            raise Refusal(
                401,
                "NoAuthenticationInformation",
                "Server failed to authenticate the request. Please refer to the information in the "
                "www-authenticate header.",
                headers={"www-authenticate": authority},
            )

    def _check_token(self, header: str, now: datetime) -> None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Refusal(403, "AuthenticationFailed", "only bearer tokens and signatures are known here")
        try:
            self.tokens.verify(token.strip(), self.audiences, now)
        except SidecarError as exc:
            raise Refusal(401, "InvalidAuthenticationInfo", f"Server failed to authenticate: {exc}") from exc


def check_signature(
    key: str, query: Mapping[str, str], resource: Resource, wanted: Sequence[Permission], now: datetime
) -> None:
    """Check an account or service SAS.

    Raises:
        Refusal: 403 with the service's word for why not.
    """
    if query.get("sv", "") < _FIRST_VERSION:
        raise _denied(
            "AuthenticationFailed", f"signatures of versions before {_FIRST_VERSION} are not known here"
        )
    whole = "ss" in query
    text = _account_text(query, resource) if whole else _service_text(query, resource)
    if not hmac.compare_digest(sign(key, text).encode(), query["sig"].encode()):
        raise _denied("AuthenticationFailed", "Signature did not match.")
    start, end = _time(query.get("st", "")), _time(query.get("se", ""))
    if end is None or now >= end or (start is not None and now < start):
        raise _denied("AuthenticationFailed", "Signature not valid in the specified time frame.")
    if whole and ("b" not in query["ss"] or ("o" if resource.blob else "c") not in query.get("srt", "")):
        raise _denied("AuthorizationResourceTypeMismatch", "the signature is for other resources")
    if not set(query.get("sp", "")) & set(wanted):
        raise _denied("AuthorizationPermissionMismatch", "the signature does not grant this permission")


def sign(key: str, text: str) -> str:
    """The `sig` of a string to sign."""
    try:
        raw = base64.b64decode(key, validate=True)
    except binascii.Error:
        raise ValueError("account key: not base64") from None
    return base64.b64encode(hmac.digest(raw, text.encode(), hashlib.sha256)).decode()


def account_signature(account: str, key: str, permissions: str, now: datetime, life: timedelta) -> str:
    """An account SAS for blobs as a query, secret."""
    query = {
        "sv": VERSION,
        "ss": "b",
        "srt": "co",
        "sp": permissions,
        "se": (now + life).astimezone(UTC).strftime(_FORMATS[0]),
        "spr": "https",
    }
    text = _account_text(query, Resource(account, ""))
    return urlencode(query | {"sig": sign(key, text)})


def _account_text(query: Mapping[str, str], resource: Resource) -> str:
    fields = [query.get(name, "") for name in _ACCOUNT_FIELDS]
    return "\n".join([resource.account, *fields, ""])


def _service_text(query: Mapping[str, str], resource: Resource) -> str:
    kind = query.get("sr", "")
    path = f"/blob/{resource.account}/{resource.container}"
    if kind == "b":
        path += f"/{resource.blob}"
    elif kind != "c":
        raise _denied("AuthenticationFailed", "sr: only blobs and containers are known here")
    names = ("sp", "st", "se")
    fields = [*(query.get(name, "") for name in names), path]
    fields += [query.get(name, "") for name in ("si", "sip", "spr", "sv", "sr")]
    fields += ["", query.get("ses", "")]  # no snapshots here
    fields += [query.get(name, "") for name in ("rscc", "rscd", "rsce", "rscl", "rsct")]
    return "\n".join(fields)


def _time(text: str) -> datetime | None:
    for form in _FORMATS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def _denied(code: str, message: str) -> Refusal:
    return Refusal(403, code, message)
