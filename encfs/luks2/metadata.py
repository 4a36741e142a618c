"""The JSON area as values: keyslots, segments, digests, tokens, config; parsed strictly, built back.

The profile is narrower than the format on purpose. One crypt segment under `aes-xts-plain64`, keyslots of
type luks2, digests of type pbkdf2, no requirement, no re-encryption. What lies outside is refused by name:
a header that we read differently from its writer is worse than one that we do not read.

`parse_metadata` looks at one object at a time; what the objects say together (references, places,
overlaps) is checked by `encfs.luks2.layout`.

Kind: pure

Spec: LUKS2 On-Disk Format Specification, version 1.1.4, section 3.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from encfs.errors import ForbiddenCipher, MalformedMetadata, MetadataBomb, UnsupportedFeature
from encfs.luks2 import af
from encfs.luks2.fields import Fields, Json, numbered, printable
from encfs.luks2.kdf import Kdf, build_kdf, hash_field, parse_kdf, salt_field
from encfs.strictjson import JsonRefused, load_object

MAX_JSON = 1024 * 1024  # bytes of text; honest headers stay below 64 KiB
MAX_DEPTH = 12  # a token may nest; everything else has 4 levels
MAX_OBJECTS = 32  # keyslots, tokens, segments, digests: the reference implementation's limit for each
CIPHER = "aes-xts-plain64"
XTS_KEY_SIZES = (32, 64)  # bytes: AES-128 and AES-256, two keys each
# The one form of authenticated encryption: the key is one for AES-256-XTS and 32 bytes for HMAC. A volume key
# of 64 bytes would be ambiguous: without the integrity object it would pass for one of AES-256-XTS alone.
INTEGRITY = "hmac(sha256)"
INTEGRITY_KEY_SIZE = 96
INTEGRITY_SECTOR_SIZES = (512, 4096)
SECTOR_SIZES = (512, 1024, 2048, 4096)  # bytes
MAX_KEY_SIZE = 512  # bytes of an unbound key, which we only keep
# Section 3.5, and one newer name found in the reference implementation. They tune the kernel's dm-crypt and
# change nothing that is stored, so they are accepted and kept.
KNOWN_FLAGS = (
    "allow-discards", "same-cpu-crypt", "submit-from-crypt-cpus", "no-journal",
    "no-read-workqueue", "no-write-workqueue", "high_priority",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Area:
    """Where a keyslot's encrypted key lies: bytes from the start of the header image."""

    offset: int
    size: int
    encryption: str
    key_size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Keyslot:
    """One keyslot; `priority` is 0 (only when named), 1 (normal), 2 (first), or None for not stated."""

    key_size: int
    area: Area
    kdf: Kdf
    af_hash: str
    priority: int | None = None

    @property
    def material_size(self) -> int:
        """Bytes of the area that hold the split key."""
        return self.key_size * af.STRIPES


@dataclass(frozen=True, slots=True)
class CryptSegment:
    """The encrypted data: offset and size in bytes, size None for `dynamic`; `integrity`: has tags."""

    offset: int
    size: int | None
    iv_tweak: int
    encryption: str
    sector_size: int
    integrity: bool = False


@dataclass(frozen=True, slots=True)
class Digest:
    """Confirms a volume key; binds keyslots to segments by their numbers."""

    keyslots: tuple[int, ...]
    segments: tuple[int, ...]
    hash: str
    iterations: int
    salt: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Token:
    """A token of any type; `fields` are its other members, untrusted."""

    type: str
    keyslots: tuple[int, ...]
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of the areas in bytes, and activation flags."""

    json_size: int
    keyslots_size: int
    flags: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Metadata:
    """The whole JSON area; mappings are keyed by object number."""

    keyslots: Mapping[int, Keyslot]
    tokens: Mapping[int, Token]
    segments: Mapping[int, CryptSegment]
    digests: Mapping[int, Digest]
    config: Config


def parse_metadata(text: bytes) -> Metadata:
    """Parse the text of a JSON area.

    Args:
        text: the JSON text without closing zeros, untrusted.

    Raises:
        MetadataBomb: larger, deeper or with longer numbers than any honest header.
        MalformedMetadata: not JSON, or a field missing, of another type or out of range.
        UnsupportedFeature: a requirement, flag, type or member outside the profile, by name.
        ForbiddenCipher: a cipher, hash or key size outside the profile.
    """
    try:
        top = Fields("metadata", load_object(text, max_bytes=MAX_JSON, max_depth=MAX_DEPTH))
    except JsonRefused as exc:
        error = MetadataBomb if exc.bomb else MalformedMetadata
        raise error(f"JSON area: {exc}") from exc
    # Requirements first: they say that the rest may mean something else.
    config = _parse_config(top.nested("config"))
    keyslots = numbered("keyslots", top.take("keyslots"), MAX_OBJECTS)
    tokens = numbered("tokens", top.take("tokens"), MAX_OBJECTS)
    segments = numbered("segments", top.take("segments"), MAX_OBJECTS)
    digests = numbered("digests", top.take("digests"), MAX_OBJECTS)
    top.done()
    return Metadata(
        keyslots={n: _parse_keyslot(Fields(f"keyslot {n}", v)) for n, v in keyslots.items()},
        tokens={n: _parse_token(Fields(f"token {n}", v)) for n, v in tokens.items()},
        segments={n: _parse_segment(Fields(f"segment {n}", v)) for n, v in segments.items()},
        digests={n: _parse_digest(Fields(f"digest {n}", v)) for n, v in digests.items()},
        config=config,
    )


def build_metadata(metadata: Metadata) -> bytes:
    """The JSON text; the inverse of `parse_metadata`."""
    return json.dumps(metadata_json(metadata), separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def metadata_json(metadata: Metadata) -> Json:
    """The JSON area as plain JSON values."""
    config: Json = {
        "json_size": str(metadata.config.json_size),
        "keyslots_size": str(metadata.config.keyslots_size),
    }
    if metadata.config.flags is not None:
        config["flags"] = list(metadata.config.flags)
    return {
        "keyslots": {str(n): _build_keyslot(v) for n, v in metadata.keyslots.items()},
        "tokens": {str(n): token_json(v) for n, v in metadata.tokens.items()},
        "segments": {str(n): _build_segment(v) for n, v in metadata.segments.items()},
        "digests": {str(n): _build_digest(v) for n, v in metadata.digests.items()},
        "config": config,
    }


def token_json(token: Token) -> Json:
    """A token as plain JSON values."""
    return {"type": token.type, "keyslots": [str(n) for n in token.keyslots], **token.fields}


def _parse_config(fields: Fields) -> Config:
    if fields.has("requirements"):
        _refuse_requirements(fields.nested("requirements"))
    flags = None
    if fields.has("flags"):
        flags = tuple(fields.strings("flags"))
        for flag in flags:
            if flag not in KNOWN_FLAGS:
                raise UnsupportedFeature(f"config: unknown flag {printable(flag)}", hint=_NEWER)
    config = Config(fields.uint64("json_size"), fields.uint64("keyslots_size"), flags)
    fields.done()
    return config


def _refuse_requirements(fields: Fields) -> None:
    names = fields.strings("mandatory") if fields.has("mandatory") else []
    fields.done()
    if names:
        reencrypt = any("reencrypt" in name for name in names)
        raise UnsupportedFeature(
            f"config: the header requires {', '.join(printable(name) for name in names[:4])}",
            hint="finish the re-encryption first: cryptsetup reencrypt --resume-only"
            if reencrypt
            else _NEWER,
        )


_NEWER = "the image needs something that this driver does not do; nothing was opened"


def _parse_keyslot(fields: Fields) -> Keyslot:
    type_ = fields.string("type")
    if type_ != "luks2":
        raise UnsupportedFeature(f"{fields.name}: type {printable(type_)}, wanted luks2", hint=_NEWER)
    area = _parse_area(fields.nested("area"))
    kdf = parse_kdf(fields.nested("kdf"))
    af_hash = _parse_af(fields.nested("af"))
    key_size = fields.uint32("key_size")
    if not 1 <= key_size <= MAX_KEY_SIZE:
        raise MalformedMetadata(f"{fields.name}: key_size {key_size}, wanted 1 to {MAX_KEY_SIZE}")
    priority = fields.uint32("priority") if fields.has("priority") else None
    if priority not in (None, 0, 1, 2):
        raise MalformedMetadata(f"{fields.name}: priority {priority}, wanted 0, 1 or 2")
    fields.done()
    return Keyslot(key_size, area, kdf, af_hash, priority)


def _parse_area(fields: Fields) -> Area:
    type_ = fields.string("type")
    if type_ != "raw":
        raise UnsupportedFeature(f"{fields.name}: type {printable(type_)}, wanted raw", hint=_NEWER)
    area = Area(fields.uint64("offset"), fields.uint64("size"), _cipher(fields), fields.uint32("key_size"))
    if area.key_size not in XTS_KEY_SIZES:
        raise ForbiddenCipher(f"{fields.name}: key_size {area.key_size}, wanted 32 or 64")
    fields.done()
    return area


def _parse_af(fields: Fields) -> str:
    type_ = fields.string("type")
    if type_ != "luks1":
        raise UnsupportedFeature(f"{fields.name}: type {printable(type_)}, wanted luks1", hint=_NEWER)
    stripes = fields.uint32("stripes")
    if stripes != af.STRIPES:
        raise MalformedMetadata(f"{fields.name}: {stripes} stripes, wanted {af.STRIPES}")
    name = hash_field(fields, "hash")
    fields.done()
    return name


def _parse_segment(fields: Fields) -> CryptSegment:
    type_ = fields.string("type")
    if type_ != "crypt":
        raise UnsupportedFeature(f"{fields.name}: type {printable(type_)}, wanted crypt", hint=_NEWER)
    if fields.has("flags"):
        raise UnsupportedFeature(f"{fields.name}: flags is set, wanted a plain segment", hint=_NEWER)
    integrity = fields.has("integrity")
    if integrity:
        _parse_integrity(fields.nested("integrity"))
    size = None
    if fields.take("size") != "dynamic":
        size = fields.uint64("size")
    segment = CryptSegment(
        fields.uint64("offset"),
        size,
        fields.uint64("iv_tweak"),
        _cipher(fields),
        fields.uint32("sector_size"),
        integrity,
    )
    fields.done()
    if segment.sector_size not in SECTOR_SIZES:
        raise MalformedMetadata(
            f"{fields.name}: sector_size {segment.sector_size}, wanted one of {SECTOR_SIZES}"
        )
    if integrity:
        _check_integrity_segment(fields.name, segment)
    return segment


def _parse_integrity(fields: Fields) -> None:
    for member, wanted in (
        ("type", INTEGRITY),
        ("journal_encryption", "none"),
        ("journal_integrity", "none"),
    ):
        value = fields.string(member)
        if value != wanted:
            raise UnsupportedFeature(
                f"{fields.name}: {member} {printable(value)}, wanted {wanted}", hint=_NEWER
            )
    fields.done()


def _check_integrity_segment(name: str, segment: CryptSegment) -> None:
    """What cryptsetup writes for such a segment, and the kernel takes for granted."""
    if segment.iv_tweak or segment.size is not None:
        raise UnsupportedFeature(f"{name}: integrity with a tweak or a fixed size, wanted 0 and dynamic")
    if segment.sector_size not in INTEGRITY_SECTOR_SIZES:
        raise UnsupportedFeature(
            f"{name}: integrity, sector_size {segment.sector_size}, wanted one of {INTEGRITY_SECTOR_SIZES}"
        )


def _cipher(fields: Fields) -> str:
    name = fields.string("encryption")
    if name != CIPHER:
        raise ForbiddenCipher(
            f"{fields.name}: encryption {printable(name)}, wanted {CIPHER}",
            hint="a null cipher means that somebody wants you to write plaintext; do not use this image"
            if "null" in name
            else "this driver does not open images with other ciphers",
        )
    return name


def _parse_digest(fields: Fields) -> Digest:
    type_ = fields.string("type")
    if type_ != "pbkdf2":
        raise UnsupportedFeature(f"{fields.name}: type {printable(type_)}, wanted pbkdf2", hint=_NEWER)
    digest = Digest(
        fields.numbers("keyslots"),
        fields.numbers("segments"),
        hash_field(fields, "hash"),
        fields.uint32("iterations"),
        salt_field(fields),
        fields.binary("digest"),
    )
    fields.done()
    # 20 bytes whatever the hash: an image converted from LUKS1.
    if len(digest.digest) not in (20, DIGEST_SIZES[digest.hash]):
        raise MalformedMetadata(
            f"{fields.name}: {len(digest.digest)} bytes, wanted {DIGEST_SIZES[digest.hash]}"
        )
    if digest.iterations < 1:
        raise MalformedMetadata(f"{fields.name}: 0 iterations, wanted at least 1")
    return digest


DIGEST_SIZES = MappingProxyType({"sha1": 20, "sha256": 32, "sha512": 64})  # bytes


def _parse_token(fields: Fields) -> Token:
    type_ = fields.string("type")
    keyslots = fields.numbers("keyslots")
    return Token(type_, keyslots, fields.rest())


def _build_keyslot(slot: Keyslot) -> Json:
    area = {
        "type": "raw",
        "offset": str(slot.area.offset),
        "size": str(slot.area.size),
        "encryption": slot.area.encryption,
        "key_size": slot.area.key_size,
    }
    built: Json = {
        "type": "luks2",
        "key_size": slot.key_size,
        "af": {"type": "luks1", "stripes": af.STRIPES, "hash": slot.af_hash},
        "area": area,
        "kdf": build_kdf(slot.kdf),
    }
    return built if slot.priority is None else {**built, "priority": slot.priority}


def _build_segment(segment: CryptSegment) -> Json:
    integrity = {"type": INTEGRITY, "journal_encryption": "none", "journal_integrity": "none"}
    return {
        "type": "crypt",
        "offset": str(segment.offset),
        "size": "dynamic" if segment.size is None else str(segment.size),
        "iv_tweak": str(segment.iv_tweak),
        "encryption": segment.encryption,
        "sector_size": segment.sector_size,
        **({"integrity": integrity} if segment.integrity else {}),
    }


def _build_digest(digest: Digest) -> Json:
    return {
        "type": "pbkdf2",
        "keyslots": [str(n) for n in digest.keyslots],
        "segments": [str(n) for n in digest.segments],
        "hash": digest.hash,
        "iterations": digest.iterations,
        "salt": base64.b64encode(digest.salt).decode("ascii"),
        "digest": base64.b64encode(digest.digest).decode("ascii"),
    }
