"""The local vault and managed HSM: the key routes of both, over one store.

Strategy: each route is a short method: look up, ask `keyrules` or `releasing` for the decision, store,
show. `_guarded` stands before all of them: access token first (a client learns where to get one from the
401), then the api-version.

Rules: slow cryptography runs in a worker thread; a deleted key answers only the deleted routes; overdue
keys are purged before anything is looked up.

Spec: Azure Key Vault REST API, Keys; recorded answers of both services.

Kind: composition
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio

from sidecar.akv import KeyRef, parse_key_ref, parse_release_request
from sidecar.akvkeys import MAX_PAGE, parse_create_request, parse_import_request, parse_update_request
from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jose import b64u_decode, b64u_encode
from sidecar.jwk import Jwk
from sidecar.local import keyrules, releasing
from sidecar.local.ca import Issued
from sidecar.local.dialect import RECOVERABLE_DAYS, Dialect
from sidecar.local.faults import FaultScript
from sidecar.local.refusal import Refusal
from sidecar.local.service import Clock, Service
from sidecar.local.store import Store
from sidecar.local.storedkey import StoredKey
from sidecar.local.throttle import HSM_LIMIT, SOFTWARE_LIMIT, Bucket
from sidecar.local.tokens import TokenSigner
from sidecar.serviceerror import build_error_body
from sidecar.strictjson import JsonObject
from sidecar.web import Handler, Router, WebRequest, WebResponse, json_response

API_VERSIONS = frozenset(
    {"7.0", "7.1", "7.2", "7.3-preview", "7.3", "7.4", "7.5", "7.6", "2025-07-01", "2026-04-01"}
)
BEFORE_RELEASE = frozenset({"7.0", "7.1", "7.2"})
DAY = 86_400  # seconds

# From an issuer to its published keys; None where the issuer cannot be reached.
KeySets = Callable[[str], Awaitable[tuple[Jwk, ...] | None]]


class Vault:
    """One vault or managed HSM.

    Args:
        dialect: which of the two.
        base: its address, `https://host:port`.
        authorization: address of the tenant that issues its access tokens.
        signer: certificate that signs release answers.
        throttled: keep the vault's limits.
    """

    def __init__(
        self,
        dialect: Dialect,
        *,
        base: str,
        authorization: str,
        store: Store,
        tokens: TokenSigner,
        key_sets: KeySets,
        signer: Issued,
        clock: Clock,
        throttled: bool,
    ) -> None:
        self.dialect = dialect
        self._base = base
        self._authorization = authorization
        self._store = store
        self._tokens = tokens
        self._key_sets = key_sets
        self._signer = signer
        self._clock = clock
        self._buckets = {True: Bucket(HSM_LIMIT), False: Bucket(SOFTWARE_LIMIT)} if throttled else {}

    def service(self, faults: FaultScript) -> Service:
        """The routes as a service that obeys a fault script."""
        router = Router()
        for name, method, pattern, handler in (
            ("list", "GET", "/keys", self._list),
            ("create", "POST", "/keys/{name}/create", self._create),
            ("release", "POST", "/keys/{name}/release", self._release),
            ("release", "POST", "/keys/{name}/{version}/release", self._release),
            ("import", "PUT", "/keys/{name}", self._import),
            ("versions", "GET", "/keys/{name}/versions", self._versions),
            ("get", "GET", "/keys/{name}", self._get),
            ("get", "GET", "/keys/{name}/{version}", self._get),
            ("update", "PATCH", "/keys/{name}", self._update),
            ("update", "PATCH", "/keys/{name}/{version}", self._update),
            ("delete", "DELETE", "/keys/{name}", self._delete),
            ("list-deleted", "GET", "/deletedkeys", self._list_deleted),
            ("get-deleted", "GET", "/deletedkeys/{name}", self._get_deleted),
            ("recover", "POST", "/deletedkeys/{name}/recover", self._recover),
            ("purge", "DELETE", "/deletedkeys/{name}", self._purge),
        ):
            router.add(name, method, pattern, self._guarded(handler))
        return Service(self.dialect.service, router, faults, self._render)

    # -- who may ask ----------------------------------------------------------------------------

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: WebRequest) -> WebResponse:
            self._check_token(request)
            version = request.query.get("api-version")
            if version not in API_VERSIONS:
                seen = "missing" if version is None else repr(version[:32])
                raise self._bad(f"api-version is {seen}, wanted one of {', '.join(sorted(API_VERSIONS))}")
            now = int(self._clock().timestamp())
            await self._store.run(lambda: self._store.purge_overdue(now))
            return await handler(request)

        return guarded

    def _check_token(self, request: WebRequest) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise self._unauthorized("AKV10000: Request is missing a Bearer or PoP token.")
        try:
            self._tokens.verify(token, [self.dialect.resource], self._clock())
        except VerificationFailed as exc:
            raise self._unauthorized(f"{_akv_number(str(exc))}: {exc}", error="invalid") from exc
        except MalformedInput as exc:
            raise self._unauthorized(f"AKV10000: {exc}", error="invalid") from exc

    def _unauthorized(self, message: str, *, error: str = "") -> Refusal:
        refusal = Refusal(401, "Unauthorized", message)
        # The description stays generic: a header has no room for a quoted sentence.
        refusal.headers.update(
            self.dialect.challenge(self._authorization, error=error and "the token is not accepted")
        )
        return refusal

    def _render(self, refusal: Refusal) -> WebResponse:
        if refusal.status == 401:
            headers = {**self.dialect.challenge(self._authorization), **refusal.headers}
            # The managed HSM says nothing in the body of its challenge.
            body = b"" if self.dialect.is_hsm else build_error_body(refusal.body)
            return WebResponse(401, body, headers)
        return WebResponse(refusal.status, build_error_body(refusal.body), refusal.headers)

    def _bad(self, message: str) -> Refusal:
        return self.dialect.refuse(400, "BadParameter", message)

    def _throttle(self, key: StoredKey) -> None:
        bucket = self._buckets.get(key.jwk.kty.endswith("-HSM"))
        # Only the vault has this limit; the managed HSM takes far more than a laptop can send.
        if bucket is not None and not self.dialect.is_hsm and not bucket.take(trio.current_time()):
            text = "Request was not processed because too many requests were received."
            raise self.dialect.refuse(429, "Throttled", text)

    # -- living keys ----------------------------------------------------------------------------

    async def _living(self, request: WebRequest) -> StoredKey:
        ref = _ref(request)
        key = await self._store.run(lambda: self._store.key(self.dialect.service, ref.name, ref.version))
        if key is None or key.deleted is not None:
            raise self._missing(ref)
        return key

    def _missing(self, ref: KeyRef) -> Refusal:
        text = f"A key with (name/id) {ref} was not found in this key vault."
        return self.dialect.refuse(404, "KeyNotFound", text)

    async def _newest_for_writing(self, name: str) -> StoredKey | None:
        existing = await self._store.run(lambda: self._store.key(self.dialect.service, name))
        if existing is not None and existing.deleted is not None:
            text = (
                f"Key {name} is currently in a deleted but recoverable state, and its name cannot be reused."
            )
            raise self.dialect.refuse(409, "Conflict", text, inner="ObjectIsDeletedButRecoverable")
        return existing

    async def _create(self, request: WebRequest) -> WebResponse:
        name, body, now = _name(request), parse_create_request(request.body), self._now()
        existing = await self._newest_for_writing(name)
        key = await trio.to_thread.run_sync(
            lambda: keyrules.accept_create(self.dialect, name, body, existing, now)
        )
        self._throttle(key)
        return await self._added(key)

    async def _import(self, request: WebRequest) -> WebResponse:
        name, body, now = _name(request), parse_import_request(request.body), self._now()
        existing = await self._newest_for_writing(name)
        key = await trio.to_thread.run_sync(
            lambda: keyrules.accept_import(self.dialect, name, body, existing, now)
        )
        return await self._added(key)

    async def _added(self, key: StoredKey) -> WebResponse:
        await self._store.run(lambda: self._store.add(self.dialect.service, key))
        return self._shown(key)

    async def _get(self, request: WebRequest) -> WebResponse:
        return self._shown(await self._living(request))

    async def _update(self, request: WebRequest) -> WebResponse:
        key, versioned = await self._living(request), bool(_ref(request).version)
        body = parse_update_request(request.body)
        changed = keyrules.accept_update(self.dialect, key, body, self._now(), versioned=versioned)
        await self._store.run(lambda: self._store.update(self.dialect.service, changed))
        return self._shown(changed)

    async def _list(self, request: WebRequest) -> WebResponse:
        keys = await self._store.run(lambda: self._store.newest(self.dialect.service, deleted=False))
        return self._page(request, [self.dialect.item(self._base, k, versioned=False) for k in keys])

    async def _versions(self, request: WebRequest) -> WebResponse:
        await self._living(request)
        name = _name(request)
        keys = await self._store.run(lambda: self._store.versions(self.dialect.service, name))
        return self._page(request, [self.dialect.item(self._base, k, versioned=True) for k in keys])

    def _page(self, request: WebRequest, items: list[JsonObject]) -> WebResponse:
        """One page of a list: `$skiptoken` says where it starts, `nextLink` where the next one is."""
        size = _bounded(request.query.get("maxresults"), MAX_PAGE)
        token = request.query.get("$skiptoken")
        start = 0 if token is None else _bounded(b64u_decode(token).decode("ascii", "replace"), 1 << 30)
        link = None
        if start + size < len(items):
            following = b64u_encode(str(start + size).encode())
            version = request.query["api-version"]
            query = f"api-version={version}&$skiptoken={following}&maxresults={size}"
            link = f"{self._base}{request.path}?{query}"
        return json_response({"value": items[start : start + size], "nextLink": link})

    # -- release --------------------------------------------------------------------------------

    async def _release(self, request: WebRequest) -> WebResponse:
        ref, key = _ref(request), await self._living(request)
        version = request.query["api-version"]
        if version in BEFORE_RELEASE:
            raise self._bad("Release needs api-version 7.3 or later.")
        body = parse_release_request(request.body)
        if key.attributes.enabled is False:
            text = "Operation release is not allowed on a disabled key."
            raise self.dialect.refuse(403, "Forbidden", text, inner="KeyDisabled")
        self._throttle(key)
        issuer = releasing.issuer_of(body.target, self.dialect)
        keys = await self._key_sets(issuer)
        if keys is None:
            text = f"The specified attestation service {issuer[:200]} cannot be reached."
            raise self.dialect.refuse(400, "BadParameter", text, number="AKV.SKR.1012")
        asked: JsonObject = {"api-version": version, "kid": f"{self._base}{ref.path}"}

        def decide() -> str:
            claims = releasing.judge_token(self.dialect, body.target, issuer, keys, self._clock())
            releasing.judge_policy(self.dialect, key, claims)
            target = releasing.wrapping_key(self.dialect, claims)
            return releasing.release_answer(self.dialect, self._base, key, asked, body, target, self._signer)

        return json_response({"value": await trio.to_thread.run_sync(decide)})

    # -- deleted keys ---------------------------------------------------------------------------

    async def _delete(self, request: WebRequest) -> WebResponse:
        key, now = await self._living(request), self._now()
        purge = now + RECOVERABLE_DAYS * DAY
        await self._store.run(lambda: self._store.mark_deleted(self.dialect.service, key.name, now, purge))
        return self._shown_deleted(replace(key, deleted=now, purge=purge))

    async def _deleted(self, request: WebRequest) -> StoredKey:
        name = _name(request)
        key = await self._store.run(lambda: self._store.key(self.dialect.service, name))
        if key is None or key.deleted is None:
            text = f"Deleted Key not found: {name}"
            raise self.dialect.refuse(404, "KeyNotFound", text)
        return key

    async def _list_deleted(self, request: WebRequest) -> WebResponse:
        keys = await self._store.run(lambda: self._store.newest(self.dialect.service, deleted=True))
        items = [self.dialect.item(self._base, k, versioned=False) | self._recovery(k) for k in keys]
        return self._page(request, items)

    async def _get_deleted(self, request: WebRequest) -> WebResponse:
        return self._shown_deleted(await self._deleted(request))

    async def _recover(self, request: WebRequest) -> WebResponse:
        key = await self._deleted(request)
        await self._store.run(lambda: self._store.mark_deleted(self.dialect.service, key.name, None, None))
        return self._shown(replace(key, deleted=None, purge=None))

    async def _purge(self, request: WebRequest) -> WebResponse:
        key = await self._deleted(request)
        await self._store.run(lambda: self._store.purge(self.dialect.service, key.name))
        return WebResponse(204)

    # -- answers --------------------------------------------------------------------------------

    def _shown(self, key: StoredKey) -> WebResponse:
        return json_response(self.dialect.bundle(self._base, key))

    def _shown_deleted(self, key: StoredKey) -> WebResponse:
        return json_response(self._recovery(key) | self.dialect.bundle(self._base, key))

    def _recovery(self, key: StoredKey) -> JsonObject:
        link = f"{self._base}/deletedkeys/{key.name}"
        return {"recoveryId": link, "deletedDate": key.deleted, "scheduledPurgeDate": key.purge}

    def _now(self) -> int:
        return int(self._clock().timestamp())


def _name(request: WebRequest) -> str:
    return parse_key_ref(request.parameters["name"]).name


def _ref(request: WebRequest) -> KeyRef:
    name, version = request.parameters["name"], request.parameters.get("version", "")
    return parse_key_ref(f"{name}/{version}")


def _bounded(text: str | None, high: int) -> int:
    if text is None:
        return high
    if not text.isascii() or not text.isdigit() or not 0 <= int(text[:12]) <= high:
        raise MalformedInput(f"list: page parameter {text[:32]!r}, wanted a number up to {high}")
    return int(text)


def _akv_number(reason: str) -> str:
    """The vault's number for what is wrong with an access token."""
    if "audience" in reason:
        return "AKV10022"
    return "AKV10032" if "issuer" in reason else "AKV10000"
