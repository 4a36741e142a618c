"""Keys as a vault manages them: import, create and update requests, key bundles, lists. Both directions.

Strategy: one frozen value per body; `to_dict` writes it in the member order of recorded answers, `parse_*`
reads it. Requests are read as the services read them (unknown members are passed over), policies inside
them strictly.

Rules: a bundle never holds secret members. A release policy travels as base64url JSON inside an envelope;
both base64 alphabets are accepted, as the services do. Times are Unix seconds.

Spec: Azure Key Vault REST API 7.4, Keys; recorded answers of vault and managed HSM.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sidecar.errors import MalformedInput
from sidecar.jose import b64_any_decode, b64u_encode
from sidecar.jwk import Jwk, parse_jwk
from sidecar.releasepolicy import MAX_POLICY, ReleasePolicy, parse_policy
from sidecar.strictjson import (
    JsonObject,
    as_bool,
    as_int,
    as_list,
    as_object,
    as_text,
    dump_json,
    load_object,
    object_member,
    optional_text,
    text_member,
)

CONTENT_TYPE = "application/json; charset=utf-8"
MAX_TAGS = 15
MAX_TAG = 256  # characters of a name or a value
MAX_PAGE = 25  # items of one list answer


@dataclass(frozen=True, slots=True)
class PolicyEnvelope:
    """A release policy as it travels.

    Attributes:
        data: the policy's JSON, bytes as sent.
        content_type: as sent, or the services' default.
        immutable: the policy can never be changed again.
    """

    data: bytes
    content_type: str = CONTENT_TYPE
    immutable: bool = False

    @classmethod
    def of(cls, policy: ReleasePolicy, *, immutable: bool = False) -> PolicyEnvelope:
        """The envelope of a policy of ours."""
        return cls(policy.to_bytes(), immutable=immutable)

    def policy(self) -> ReleasePolicy:
        """The policy inside; MalformedInput when it is none."""
        return parse_policy(self.data)

    def to_dict(self) -> JsonObject:
        """The envelope as JSON; `immutable` always written."""
        return {
            "contentType": self.content_type,
            "data": b64u_encode(self.data),
            "immutable": self.immutable,
        }


def parse_envelope(value: object) -> PolicyEnvelope:
    """Read an envelope; the policy inside is not judged here. MalformedInput when it is not one."""
    what = "release_policy"
    obj = as_object(value, what)
    text = as_text(obj.get("data"), f"{what}: data", max_length=2 * MAX_POLICY)
    immutable = obj.get("immutable")
    return PolicyEnvelope(
        b64_any_decode(text, what=f"{what}: data"),
        optional_text(obj, "contentType", what) or CONTENT_TYPE,
        False if immutable is None else as_bool(immutable, f"{what}: immutable"),
    )


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of a key; None where not said.

    Attributes:
        enabled, exportable: flags. nbf, exp, created, updated: Unix seconds.
        recovery_level, recoverable_days: how a deleted key can come back.
    """

    enabled: bool | None = None
    exportable: bool | None = None
    nbf: int | None = None
    exp: int | None = None
    created: int | None = None
    updated: int | None = None
    recovery_level: str | None = None
    recoverable_days: int | None = None

    def to_dict(self) -> JsonObject:
        """The members that are set, in recorded order."""
        found = {
            "enabled": self.enabled,
            "nbf": self.nbf,
            "exp": self.exp,
            "created": self.created,
            "updated": self.updated,
            "recoveryLevel": self.recovery_level,
            "recoverableDays": self.recoverable_days,
            "exportable": self.exportable,
        }
        return {name: value for name, value in found.items() if value is not None}

    def merged(self, newer: Attributes) -> Attributes:
        """These, with what `newer` says about enabled, exportable, nbf and exp."""
        changes = {n: getattr(newer, n) for n in ("enabled", "exportable", "nbf", "exp")}
        return replace(self, **{n: v for n, v in changes.items() if v is not None})


def parse_attributes(value: object) -> Attributes:
    """Read attributes; an absent or null member stays unsaid. MalformedInput for other types."""
    if value is None:
        return Attributes()
    what = "attributes"
    obj = as_object(value, what)

    def flag(name: str) -> bool | None:
        return None if obj.get(name) is None else as_bool(obj[name], f"{what}: {name}")

    def number(name: str) -> int | None:
        return None if obj.get(name) is None else as_int(obj[name], f"{what}: {name}")

    return Attributes(
        enabled=flag("enabled"),
        exportable=flag("exportable"),
        nbf=number("nbf"),
        exp=number("exp"),
        created=number("created"),
        updated=number("updated"),
        recovery_level=optional_text(obj, "recoveryLevel", what),
        recoverable_days=number("recoverableDays"),
    )


# -- requests -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A key to import; **secret**."""

    key: Jwk
    hsm: bool | None = None
    attributes: Attributes = field(default_factory=Attributes)
    tags: Mapping[str, str] = field(default_factory=dict)
    release_policy: PolicyEnvelope | None = None

    def to_bytes(self) -> bytes:
        """The request body, **secret**."""
        body: JsonObject = {"key": self.key.to_dict(private=True)}
        if self.hsm is not None:
            body["hsm"] = self.hsm
        return dump_json(body | _common_members(self.attributes, self.tags, self.release_policy))


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A key to create in the vault."""

    kty: str
    key_size: int | None = None
    public_exponent: int | None = None
    crv: str | None = None
    key_ops: tuple[str, ...] = ()
    attributes: Attributes = field(default_factory=Attributes)
    tags: Mapping[str, str] = field(default_factory=dict)
    release_policy: PolicyEnvelope | None = None

    def to_bytes(self) -> bytes:
        """The request body."""
        body: JsonObject = {"kty": self.kty}
        for name in ("key_size", "public_exponent", "crv"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        if self.key_ops:
            body["key_ops"] = list(self.key_ops)
        return dump_json(body | _common_members(self.attributes, self.tags, self.release_policy))


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """What to change of a key; None leaves a thing as it is."""

    key_ops: tuple[str, ...] | None = None
    attributes: Attributes = field(default_factory=Attributes)
    tags: Mapping[str, str] | None = None
    release_policy: PolicyEnvelope | None = None

    def to_bytes(self) -> bytes:
        """The request body."""
        body: JsonObject = {} if self.key_ops is None else {"key_ops": list(self.key_ops)}
        return dump_json(body | _common_members(self.attributes, self.tags, self.release_policy))


def parse_import_request(data: bytes) -> ImportRequest:
    """Read an import request, as the vault does; MalformedInput otherwise. Its result is secret."""
    what = "import request"
    body = load_object(data, what=what)
    # The published specification writes Hsm, the clients write hsm.
    hsm = body.get("hsm", body.get("Hsm"))
    key = parse_jwk(body.get("key"), what=f"{what}: key")
    if not key.is_private:
        raise MalformedInput(f"{what}: key has no private part")
    return ImportRequest(
        key=key,
        hsm=None if hsm is None else as_bool(hsm, f"{what}: hsm"),
        attributes=parse_attributes(body.get("attributes")),
        tags=_parse_tags(body.get("tags")) or {},
        release_policy=_parse_optional_envelope(body),
    )


def parse_create_request(data: bytes) -> CreateRequest:
    """Read a create request, as the vault does; MalformedInput otherwise."""
    what = "create request"
    body = load_object(data, what=what)
    size, exponent = body.get("key_size"), body.get("public_exponent")
    return CreateRequest(
        kty=text_member(body, "kty", what, max_length=16),
        key_size=None if size is None else as_int(size, f"{what}: key_size"),
        public_exponent=None if exponent is None else as_int(exponent, f"{what}: public_exponent"),
        crv=optional_text(body, "crv", what),
        key_ops=_parse_ops(body.get("key_ops")) or (),
        attributes=parse_attributes(body.get("attributes")),
        tags=_parse_tags(body.get("tags")) or {},
        release_policy=_parse_optional_envelope(body),
    )


def parse_update_request(data: bytes) -> UpdateRequest:
    """Read an update request, as the vault does; MalformedInput otherwise."""
    body = load_object(data, what="update request")
    return UpdateRequest(
        key_ops=_parse_ops(body.get("key_ops")),
        attributes=parse_attributes(body.get("attributes")),
        tags=_parse_tags(body.get("tags")),
        release_policy=_parse_optional_envelope(body),
    )


def _common_members(
    attributes: Attributes, tags: Mapping[str, str] | None, policy: PolicyEnvelope | None
) -> JsonObject:
    found: JsonObject = {}
    if members := attributes.to_dict():
        found["attributes"] = members
    if tags:
        found["tags"] = dict(tags)
    if policy is not None:
        found["release_policy"] = policy.to_dict()
    return found


def _parse_optional_envelope(body: JsonObject) -> PolicyEnvelope | None:
    value = body.get("release_policy")
    return None if value is None else parse_envelope(value)


def _parse_ops(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(as_text(item, "key_ops", max_length=32) for item in as_list(value, "key_ops", max_items=16))


def _parse_tags(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    obj = as_object(value, "tags")
    if len(obj) > MAX_TAGS:
        raise MalformedInput(f"tags: {len(obj)}, at most {MAX_TAGS} are accepted")
    if any(len(name) > MAX_TAG for name in obj):
        raise MalformedInput(f"tags: a name of more than {MAX_TAG} characters")
    return {name: as_text(item, f"tags: {name!r}", max_length=MAX_TAG) for name, item in obj.items()}


# -- bundles and lists ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyBundle:
    """A key as the vault shows it; public.

    Attributes:
        kid: identifier with version.
        key: public members only.
        deleted: extra members of a deleted key (recoveryId, deletedDate, scheduledPurgeDate), or empty.
    """

    kid: str
    key: Jwk
    attributes: Attributes
    tags: Mapping[str, str] = field(default_factory=dict)
    release_policy: PolicyEnvelope | None = None
    deleted: Mapping[str, object] = field(default_factory=dict)


def parse_key_bundle(data: bytes) -> KeyBundle:
    """Read a bundle, as a client does; MalformedInput otherwise."""
    what = "key bundle"
    body = load_object(data, what=what)
    key = object_member(body, "key", what)
    kid = text_member(key, "kid", what)
    deleted: JsonObject = {
        n: body[n] for n in ("recoveryId", "deletedDate", "scheduledPurgeDate") if n in body
    }
    return KeyBundle(
        kid=kid,
        key=parse_jwk(key, what=f"{what}: key").public(),
        attributes=parse_attributes(body.get("attributes")),
        tags=_parse_tags(body.get("tags")) or {},
        release_policy=_parse_optional_envelope(body),
        deleted=deleted,
    )


@dataclass(frozen=True, slots=True)
class KeyItem:
    """One line of a list: identifier, attributes, tags; no key material."""

    kid: str
    attributes: Attributes
    tags: Mapping[str, str] = field(default_factory=dict)


def parse_key_list(data: bytes) -> tuple[tuple[KeyItem, ...], str | None]:
    """Read one page of a list: the items, and the address of the next page or None."""
    what = "key list"
    body = load_object(data, what=what)
    items = [as_object(i, what) for i in as_list(body.get("value"), f"{what}: value", max_items=1000)]
    found = tuple(
        KeyItem(
            text_member(i, "kid", what),
            parse_attributes(i.get("attributes")),
            _parse_tags(i.get("tags")) or {},
        )
        for i in items
    )
    return found, optional_text(body, "nextLink", what) or None
