"""Damaged and hostile headers: one mutation a row, and the one error class it must end in.

Every row starts from a header of ours that opens. Mutations of fields make the checksums right again, so that
it is the check in question that speaks and not the checksum.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pytest
from fakes.luks2_images import (
    DATA_OFFSET,
    IMAGE_SIZE,
    KEY,
    fix_checksum,
    json_of,
    key,
    mutate_json,
    reader,
    rewrite,
    seeded,
    small_image,
)

from encfs.errors import (
    CopiesDisagree,
    DamagedKeyslot,
    EncfsError,
    ForbiddenCipher,
    HeaderNotAuthentic,
    KdfCostTooHigh,
    LayoutError,
    MalformedHeader,
    MalformedMetadata,
    MetadataBomb,
    NotLuks2,
    TruncatedImage,
    UnsupportedFeature,
    UnsupportedHeader,
    WrongKey,
)
from encfs.keys import Secret
from encfs.luks2.header import BinaryHeader, HeaderCopy, build_copy, parse_copy
from encfs.luks2.keyslot import make_digest, seal_keyslot
from encfs.luks2.metadata import parse_metadata
from encfs.luks2.unlock import read_header, unlock

COPY = 16384
Mutation: TypeAlias = Callable[[bytearray], object]
Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One damage: what it is called, what it does, what must come of it."""

    name: str
    mutate: Mutation
    error: type[EncfsError]
    base: str = "plain"


# -- how to damage ---------------------------------------------------------------------------------------


def raw(at: int, data: bytes, *, fix: bool = True, copies: tuple[int, ...] = (0, 1)) -> Mutation:
    """Overwrite raw bytes at the same place of header copies."""

    def mutate(image: bytearray) -> None:
        for copy in copies:
            start = copy * COPY
            image[start + at : start + at + len(data)] = data
            if fix:
                fix_checksum(image, start, COPY)

    return mutate


def binary(change: Callable[[BinaryHeader], BinaryHeader], copies: tuple[int, ...] = (0, 1)) -> Mutation:
    return lambda image: rewrite(image, binary=change, copies=copies)


def text(change: Callable[[bytes], bytes], copies: tuple[int, ...] = (0, 1)) -> Mutation:
    """Change the JSON text itself."""

    def mutate(image: bytearray) -> None:
        old = json.dumps(json_of(image), separators=(",", ":")).encode()
        rewrite(image, text=change(old), copies=copies)

    return mutate


def swap(old: bytes, new: bytes, copies: tuple[int, ...] = (0, 1)) -> Mutation:
    """Replace a piece of the JSON text, which must be there."""

    def change(whole: bytes) -> bytes:
        assert old in whole
        return whole.replace(old, new)

    return text(change, copies)


def area_text(data: bytes) -> Mutation:
    """Replace the raw content of both JSON areas."""
    return raw(4096, data.ljust(COPY - 4096, b"\0"))


def changed(change: Callable[[Json], object]) -> Mutation:
    """Change the metadata as JSON values."""
    return lambda image: mutate_json(image, change)


def at(path: str, value: object) -> Mutation:
    """Set one member, named by a path of members; `DELETE` removes it."""

    def change(metadata: Json) -> None:
        *parents, last = path.split("/")
        target: Any = metadata
        for name in parents:
            target = target[name]
        if value is DELETE:
            del target[last]
        else:
            target[last] = value

    return changed(change)


DELETE = object()


def requires(name: str) -> Mutation:
    return at("config/requirements", {"mandatory": [name]})


def cut(length: int) -> Mutation:
    def mutate(image: bytearray) -> None:
        del image[length:]

    return mutate


def both(*mutations: Mutation) -> Mutation:
    def mutate(image: bytearray) -> None:
        for mutation in mutations:
            mutation(image)

    return mutate


def second_keyslot(**area: str) -> Mutation:
    """A second keyslot bound to the data, with members of its area replaced."""

    def change(metadata: Json) -> None:
        slot = json.loads(json.dumps(metadata["keyslots"]["0"]))
        slot["area"].update({"offset": "290816", **area})
        metadata["keyslots"]["1"] = slot
        metadata["digests"]["0"]["keyslots"].append("1")

    return changed(change)


def argon2(**costs: int) -> Mutation:
    def change(metadata: Json) -> None:
        salt = metadata["keyslots"]["0"]["kdf"]["salt"]
        kdf = {"type": "argon2id", "time": 4, "memory": 1024, "cpus": 1, "salt": salt, **costs}
        metadata["keyslots"]["0"]["kdf"] = kdf

    return changed(change)


def second_digest(**members: object) -> Mutation:
    def change(metadata: Json) -> None:
        metadata["digests"]["1"] = {**metadata["digests"]["0"], **members}

    return changed(change)


def two_secondaries(image: bytearray) -> None:
    """A second, valid secondary copy where a larger header would have it; the primary is wiped."""
    size = 2 * COPY
    image[size : 2 * size] = bytes(size)
    value = json_of(image)
    value["config"]["json_size"] = str(size - 4096)
    copy = parse_copy(bytes(image[:COPY]), offset=0)
    planted = HeaderCopy(replace(copy.binary, size=size, offset=size), json.dumps(value).encode())
    image[size : 2 * size] = build_copy(planted)
    image[:4096] = bytes(4096)


def equal_halves(image: bytearray) -> None:
    """A well-made header around a volume key that XTS must not be used with."""
    weak = Secret(bytes(range(32)) * 2)
    metadata = parse_metadata(json.dumps(json_of(image)).encode())
    slot = metadata.keyslots[0]
    material = seal_keyslot(slot, weak, key(), seeded("weak"))
    image[slot.area.offset : slot.area.offset + len(material)] = material
    salt = metadata.digests[0].salt
    digest = make_digest(weak, keyslots=(0,), salt=salt, hash_name="sha256", iterations=1000)
    at("digests/0/digest", base64.b64encode(digest.digest).decode())(image)


def large_header(filler: bytes) -> Mutation:
    """Both copies grown to 4 MiB, with `filler` as JSON text."""

    def mutate(image: bytearray) -> None:
        size = 4 * 1024 * 1024
        old = parse_copy(bytes(image[:COPY]), offset=0).binary
        image[:] = b"".join(
            build_copy(HeaderCopy(replace(old, size=size, offset=offset), filler)) for offset in (0, size)
        ) + bytes(IMAGE_SIZE)

    return mutate


def nested(depth: int) -> bytes:
    return b'{"tokens":' + b"[" * depth + b"]" * depth + b"}"


SLOT, AREA, KDF, AF = "keyslots/0", "keyslots/0/area", "keyslots/0/kdf", "keyslots/0/af"
SEGMENT, DIGEST, TOKEN = "segments/0", "digests/0", "tokens/0"
TAGS = f"{SEGMENT}/integrity"
INTEGRITY = {"type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none"}
OTHER_DIGEST = base64.b64encode(bytes(32)).decode()
SHORT_SALT = base64.b64encode(bytes(16)).decode()

ROWS = [
    # the binary header
    Row("magic of both copies", raw(0, b"LUKZ"), NotLuks2),
    Row("version 1", raw(6, b"\0\x01"), NotLuks2),
    Row("version 3", raw(6, b"\0\x03"), NotLuks2),
    Row("header size 0", raw(8, bytes(8)), MalformedHeader),
    Row("header size between two sizes", raw(8, (0x5000).to_bytes(8, "big")), MalformedHeader),
    Row("header size larger than any", raw(8, (0x800000).to_bytes(8, "big")), MalformedHeader),
    Row("header size of 64 bits", raw(8, b"\xff" * 8), MalformedHeader),
    Row("sequence id 0", raw(16, bytes(8)), MalformedHeader),
    Row("sequence id with the sign bit", raw(16, b"\x80" + bytes(7)), MalformedHeader),
    Row("label not closed", raw(24, b"x" * 48), MalformedHeader),
    Row("label with data behind its end", raw(24, b"a\0b" + bytes(45)), MalformedHeader),
    Row("label not UTF-8", raw(24, b"\xff\xfe\0"), MalformedHeader),
    Row("checksum algorithm unknown", raw(72, b"crc32\0\0"), UnsupportedHeader),
    Row("checksum algorithm empty", raw(72, bytes(7)), UnsupportedHeader),
    Row("uuid empty", raw(168, bytes(40)), MalformedHeader),
    Row("uuid of another form", raw(168, b"not-a-uuid".ljust(40, b"\0")), MalformedHeader),
    Row("subsystem not closed", raw(208, b"y" * 48), MalformedHeader),
    Row("header offset not its own", raw(256, (COPY * 2).to_bytes(8, "big")), MalformedHeader),
    Row("data in the first padding", raw(300, b"\x01"), MalformedHeader),
    Row("data in the last padding", raw(4095, b"\x01"), MalformedHeader),
    Row("checksum wrong in both copies", raw(450, b"\0\0\0", fix=False), MalformedHeader),
    Row("data in the unused part of the checksum", raw(500, b"\x01", fix=False), MalformedHeader),
    # the two copies
    Row("copies of two uuids", binary(lambda b: replace(b, uuid="0" * 8 + b.uuid[8:]), (0,)), CopiesDisagree),
    Row("same sequence id, other label", binary(lambda b: replace(b, label="x"), (1,)), CopiesDisagree),
    Row("same sequence id, other metadata", swap(b'"iv_tweak":"0"', b'"iv_tweak":"8"', copies=(1,)),
        CopiesDisagree),
    Row("secondary two updates ahead", binary(lambda b: replace(b, seqid=3), (1,)), CopiesDisagree),
    Row("primary far ahead", binary(lambda b: replace(b, seqid=2**62), (0,)), CopiesDisagree),
    Row("primary wiped, two secondary copies", two_secondaries, CopiesDisagree),
    Row("both copies wiped", raw(0, bytes(COPY), fix=False), NotLuks2),
    # the image's end
    Row("cut inside the first header", cut(4000), TruncatedImage),
    Row("cut inside the first JSON area", cut(10_000), TruncatedImage),
    Row("cut inside the keyslot area", cut(100_000), TruncatedImage),
    Row("cut where the data begins", cut(DATA_OFFSET), TruncatedImage),
    Row("cut inside a sector", cut(DATA_OFFSET + 5000), LayoutError),
    # the JSON text
    Row("no text", area_text(b""), MalformedHeader),
    Row("a space in front", text(lambda t: b" " + t), MalformedHeader),
    Row("an array", area_text(b"[]"), MalformedHeader),
    Row("data behind the text", area_text(b"{}\0x"), MalformedHeader),
    Row("text up to the end of the area", area_text(b"{}".ljust(COPY - 4096)), MalformedHeader),
    Row("text cut short", text(lambda t: t[:-1]), MalformedMetadata),
    Row("two objects", text(lambda t: t + b"{}"), MalformedMetadata),
    Row("not UTF-8", swap(b"aes-xts", b"aes\xffxts"), MalformedMetadata),
    Row("half a surrogate pair", swap(b'"tokens":{', b'"tokens":{"\\ud800":1,'),
        MalformedMetadata),
    Row("a member twice at the top", text(lambda t: t[:-1] + b',"config":{}}'), MalformedMetadata),
    Row("a member twice in a segment", swap(b'"iv_tweak"', b'"offset":"0","iv_tweak"'),
        MalformedMetadata),
    Row("a member twice, once escaped", swap(b'"iv_tweak"', b'"\\u006fffset":"0","iv_tweak"'),
        MalformedMetadata),
    Row("not a number", swap(b'"sector_size":4096', b'"sector_size":NaN'), MalformedMetadata),
    Row("a fraction", swap(b'"sector_size":4096', b'"sector_size":4096.0'), MalformedMetadata),
    Row("an exponent", swap(b'"sector_size":4096', b'"sector_size":4e3'), MalformedMetadata),
    Row("an integer of 5000 digits", swap(b'size":4096', b'size":' + b"9" * 5000), MetadataBomb),
    Row("arrays nested 13 deep", area_text(nested(13)), MetadataBomb),
    Row("arrays nested 5000 deep", area_text(nested(5000)), MetadataBomb),
    Row("brackets in a string are no nesting", area_text(b'{"a":"' + b"[" * 5000 + b'"}'), MalformedMetadata),
    Row("two hundred thousand values", large_header(b'{"a":[' + b"0," * 200_000 + b"0]}"), MetadataBomb),
    Row("a text of 2 MiB", large_header(b'{"a":"' + b"x" * (2 << 20) + b'"}'), MetadataBomb),
    # the top level
    *(Row(f"{name} missing", at(name, DELETE), MalformedMetadata)
      for name in ("keyslots", "tokens", "segments", "digests", "config")),
    *(Row(f"{name} is an array", at(name, []), MalformedMetadata)
      for name in ("keyslots", "tokens", "segments", "digests", "config")),
    Row("an unknown top-level member", at("extra", {}), UnsupportedFeature),
    # config
    Row("json_size not that of the header", at("config/json_size", "28672"), LayoutError),
    Row("json_size as integer", at("config/json_size", 12288), MalformedMetadata),
    Row("json_size with a leading zero", at("config/json_size", "012288"), MalformedMetadata),
    Row("json_size in other digits", at("config/json_size", "１２２８８"), MalformedMetadata),
    Row("json_size negative", at("config/json_size", "-12288"), MalformedMetadata),
    Row("keyslots_size missing", at("config/keyslots_size", DELETE), MalformedMetadata),
    Row("keyslots_size not aligned", at("config/keyslots_size", "1015807"), LayoutError),
    Row("keyslots_size beyond any", at("config/keyslots_size", str(256 << 20)), LayoutError),
    Row("keyslots_size of 65 bits", at("config/keyslots_size", str(2**64)), MalformedMetadata),
    Row("keyslots_size over the data", at("config/keyslots_size", str(DATA_OFFSET)), LayoutError),
    Row("keyslots_size too small for the keyslot", at("config/keyslots_size", "4096"), LayoutError),
    Row("an unknown flag", at("config/flags", ["allow-discards", "trust-me"]), UnsupportedFeature),
    Row("flags no array", at("config/flags", "allow-discards"), MalformedMetadata),
    Row("a flag that is no string", at("config/flags", [1]), MalformedMetadata),
    Row("a flag twice", at("config/flags", ["allow-discards"] * 2), MalformedMetadata),
    Row("re-encryption in progress", requires("online-reencrypt-v2"), UnsupportedFeature),
    Row("offline re-encryption", requires("offline-reencrypt"), UnsupportedFeature),
    Row("an unknown requirement", requires("quantum"), UnsupportedFeature),
    Row("an unknown kind of requirement", at("config/requirements", {"optional": ["x"]}), UnsupportedFeature),
    Row("requirements no object", at("config/requirements", ["quantum"]), MalformedMetadata),
    Row("an unknown member of config", at("config/extra", 1), UnsupportedFeature),
    # keyslots
    Row("keyslot with a name that is no number", at("keyslots/a", {}), MalformedMetadata),
    Row("keyslot 00", at("keyslots/00", {}), MalformedMetadata),
    Row("keyslot 32", at("keyslots/32", {}), MalformedMetadata),
    Row("keyslot of type reencrypt", at(f"{SLOT}/type", "reencrypt"), UnsupportedFeature),
    Row("keyslot without type", at(f"{SLOT}/type", DELETE), MalformedMetadata),
    Row("keyslot is null", at(SLOT, None), MalformedMetadata),
    Row("keyslot key_size 0", at(f"{SLOT}/key_size", 0), MalformedMetadata),
    Row("keyslot key_size true", at(f"{SLOT}/key_size", True), MalformedMetadata),
    Row("keyslot key_size as string", at(f"{SLOT}/key_size", "64"), MalformedMetadata),
    Row("keyslot key_size 16", at(f"{SLOT}/key_size", 16), ForbiddenCipher),
    Row("keyslot key_size 48", at(f"{SLOT}/key_size", 48), ForbiddenCipher),
    Row("keyslot key_size 1000000", at(f"{SLOT}/key_size", 1_000_000), MalformedMetadata),
    Row("keyslot key_size negative", at(f"{SLOT}/key_size", -1), MalformedMetadata),
    Row("priority 3", at(f"{SLOT}/priority", 3), MalformedMetadata),
    Row("an unknown member of a keyslot", at(f"{SLOT}/direction", "forward"), UnsupportedFeature),
    Row("area missing", at(AREA, DELETE), MalformedMetadata),
    Row("area of type none", at(f"{AREA}/type", "none"), UnsupportedFeature),
    Row("area with a null cipher", at(f"{AREA}/encryption", "cipher_null-ecb"), ForbiddenCipher),
    Row("area with another mode", at(f"{AREA}/encryption", "aes-cbc-essiv:sha256"), ForbiddenCipher),
    Row("area with an empty cipher", at(f"{AREA}/encryption", ""), MalformedMetadata),
    Row("area key_size 16", at(f"{AREA}/key_size", 16), ForbiddenCipher),
    Row("area key_size 0", at(f"{AREA}/key_size", 0), ForbiddenCipher),
    Row("area over the primary copy", at(f"{AREA}/offset", "0"), LayoutError),
    Row("area over the secondary copy", at(f"{AREA}/offset", str(COPY)), LayoutError),
    Row("area not aligned", at(f"{AREA}/offset", "33280"), LayoutError),
    Row("area in the data", at(f"{AREA}/offset", str(DATA_OFFSET)), LayoutError),
    Row("area over the end of its room", at(f"{AREA}/offset", str(DATA_OFFSET - 8192)), LayoutError),
    Row("area that wraps around", at(f"{AREA}/offset", str(2**64 - 4096)), LayoutError),
    Row("area offset of 65 bits", at(f"{AREA}/offset", str(2**64)), MalformedMetadata),
    Row("area offset in hexadecimal", at(f"{AREA}/offset", "0x8000"), MalformedMetadata),
    Row("area size 0", at(f"{AREA}/size", "0"), LayoutError),
    Row("area too small for the split key", at(f"{AREA}/size", "4096"), LayoutError),
    Row("area with an unknown member", at(f"{AREA}/hash", "sha256"), UnsupportedFeature),
    Row("areas that are one", second_keyslot(offset="32768"), LayoutError),
    Row("areas that overlap by a sector", second_keyslot(offset=str(32768 + 258048 - 4096)), LayoutError),
    Row("second area past its room", second_keyslot(offset=str(DATA_OFFSET - 4096)), LayoutError),
    Row("volume keys of two sizes", both(second_keyslot(), at("keyslots/1/key_size", 32)), MalformedMetadata),
    Row("kdf of another type", at(f"{KDF}/type", "scrypt"), UnsupportedFeature),
    Row("kdf with a broken hash", at(f"{KDF}/hash", "md5"), ForbiddenCipher),
    Row("kdf with a hash outside the profile", at(f"{KDF}/hash", "whirlpool"), ForbiddenCipher),
    Row("kdf iterations 0", at(f"{KDF}/iterations", 0), MalformedMetadata),
    Row("kdf iterations of 33 bits", at(f"{KDF}/iterations", 2**32), MalformedMetadata),
    Row("kdf iterations that take hours", at(f"{KDF}/iterations", 2**32 - 1), KdfCostTooHigh),
    Row("kdf salt not base64", at(f"{KDF}/salt", "%%%%"), MalformedMetadata),
    Row("kdf salt not ASCII", at(f"{KDF}/salt", "ÄÄÄÄ"), MalformedMetadata),
    Row("kdf salt short", at(f"{KDF}/salt", SHORT_SALT), MalformedMetadata),
    Row("kdf with parameters of another", at(f"{KDF}/memory", 1024), UnsupportedFeature),
    Row("argon2 without passes", argon2(time=0), MalformedMetadata),
    Row("argon2 without lanes", argon2(cpus=0), MalformedMetadata),
    Row("argon2 with less memory than lanes need", argon2(memory=15, cpus=2), MalformedMetadata),
    Row("argon2 with 4 TiB of memory", argon2(memory=2**32 - 1), KdfCostTooHigh),
    Row("argon2 with passes that take hours", argon2(time=2**31), KdfCostTooHigh),
    Row("argon2 with 1000 lanes", argon2(cpus=1000, memory=8000), KdfCostTooHigh),
    Row("argon2 with an iterations leftover", argon2(iterations=1000), UnsupportedFeature),
    Row("splitter of another type", at(f"{AF}/type", "luks2"), UnsupportedFeature),
    Row("splitter with 1 stripe", at(f"{AF}/stripes", 1), MalformedMetadata),
    Row("splitter with 0 stripes", at(f"{AF}/stripes", 0), MalformedMetadata),
    Row("splitter with many stripes", at(f"{AF}/stripes", 2**32 - 1), MalformedMetadata),
    Row("splitter with another hash", at(f"{AF}/hash", "ripemd160"), ForbiddenCipher),
    # segments
    Row("no segment", both(at("segments", {}), at(f"{DIGEST}/segments", [])), UnsupportedFeature),
    Row("two segments", both(changed(lambda j: j["segments"].update({"1": j["segments"]["0"]})),
                             at(f"{DIGEST}/segments", ["0", "1"])), UnsupportedFeature),
    Row("segment number 1", both(changed(lambda j: j.update(segments={"1": j["segments"]["0"]})),
                                 at(f"{DIGEST}/segments", ["1"])), UnsupportedFeature),
    Row("a plaintext segment", at(f"{SEGMENT}/type", "linear"), UnsupportedFeature),
    Row("a hardware segment", at(f"{SEGMENT}/type", "hw-opal"), UnsupportedFeature),
    Row("segment with a null cipher", at(f"{SEGMENT}/encryption", "cipher_null-ecb"), ForbiddenCipher),
    Row("segment with another IV", at(f"{SEGMENT}/encryption", "aes-xts-plain"), ForbiddenCipher),
    Row("segment that claims integrity", at(TAGS, INTEGRITY), ForbiddenCipher),
    Row("integrity without members", at(TAGS, {"type": "hmac(sha256)"}), MalformedMetadata),
    Row("integrity by another hash", at(TAGS, INTEGRITY | {"type": "none"}), UnsupportedFeature),
    Row("integrity, journal key", at(TAGS, INTEGRITY | {"journal_encryption": "x"}), UnsupportedFeature),
    Row("integrity of unknown form", at(TAGS, INTEGRITY | {"key_size": 64}), UnsupportedFeature),
    Row("segment with flags", at(f"{SEGMENT}/flags", ["in-reencryption"]), UnsupportedFeature),
    Row("segment with an unknown member", at(f"{SEGMENT}/opal_key_size", 32), UnsupportedFeature),
    Row("segment at 0", at(f"{SEGMENT}/offset", "0"), LayoutError),
    Row("segment over the keyslots", at(f"{SEGMENT}/offset", str(DATA_OFFSET - 4096)), LayoutError),
    Row("segment not aligned", at(f"{SEGMENT}/offset", str(DATA_OFFSET + 512)), LayoutError),
    Row("segment past the image", at(f"{SEGMENT}/offset", str(IMAGE_SIZE)), TruncatedImage),
    Row("segment at the end of 64 bits", at(f"{SEGMENT}/offset", str(2**64 - 4096)), TruncatedImage),
    Row("segment longer than the image", at(f"{SEGMENT}/size", str(IMAGE_SIZE)), TruncatedImage),
    Row("segment size 0", at(f"{SEGMENT}/size", "0"), LayoutError),
    Row("segment size not a multiple of a sector", at(f"{SEGMENT}/size", "4608"), LayoutError),
    Row("segment size of another word", at(f"{SEGMENT}/size", "static"), MalformedMetadata),
    Row("segment size as integer", at(f"{SEGMENT}/size", 4096), MalformedMetadata),
    Row("segment size missing", at(f"{SEGMENT}/size", DELETE), MalformedMetadata),
    Row("sector_size 0", at(f"{SEGMENT}/sector_size", 0), MalformedMetadata),
    Row("sector_size 513", at(f"{SEGMENT}/sector_size", 513), MalformedMetadata),
    Row("sector_size 8192", at(f"{SEGMENT}/sector_size", 8192), MalformedMetadata),
    Row("iv_tweak missing", at(f"{SEGMENT}/iv_tweak", DELETE), MalformedMetadata),
    Row("iv_tweak that wraps", at(f"{SEGMENT}/iv_tweak", str(2**64 - 1)), LayoutError),
    # digests
    Row("no digest", at("digests", {}), MalformedMetadata),
    Row("digest of another type", at(f"{DIGEST}/type", "argon2id"), UnsupportedFeature),
    Row("digest without its keyslot", at(f"{DIGEST}/keyslots", []), MalformedMetadata),
    Row("digest without its segment", at(f"{DIGEST}/segments", []), MalformedMetadata),
    Row("digest of a keyslot that is not there", at(f"{DIGEST}/keyslots", ["0", "9"]), MalformedMetadata),
    Row("digest of a segment that is not there", at(f"{DIGEST}/segments", ["0", "9"]), MalformedMetadata),
    Row("digest with a keyslot twice", at(f"{DIGEST}/keyslots", ["0", "0"]), MalformedMetadata),
    Row("digest with a number for a name", at(f"{DIGEST}/keyslots", [0]), MalformedMetadata),
    Row("digest with a name that is no number", at(f"{DIGEST}/keyslots", ["zero"]), MalformedMetadata),
    Row("two digests of one keyslot", second_digest(segments=[]), MalformedMetadata),
    Row("two digests of one segment", second_digest(keyslots=[]), MalformedMetadata),
    Row("digest with another hash", at(f"{DIGEST}/hash", "md5"), ForbiddenCipher),
    Row("digest iterations 0", at(f"{DIGEST}/iterations", 0), MalformedMetadata),
    Row("digest iterations that take hours", at(f"{DIGEST}/iterations", 2**32 - 1), KdfCostTooHigh),
    Row("digest of 16 bytes", at(f"{DIGEST}/digest", SHORT_SALT), MalformedMetadata),
    Row("digest empty", at(f"{DIGEST}/digest", ""), MalformedMetadata),
    Row("digest not base64", at(f"{DIGEST}/digest", "a"), MalformedMetadata),
    Row("digest salt short", at(f"{DIGEST}/salt", SHORT_SALT), MalformedMetadata),
    Row("digest with an unknown member", at(f"{DIGEST}/extra", 1), UnsupportedFeature),
    Row("digest of another key", at(f"{DIGEST}/digest", OTHER_DIGEST), DamagedKeyslot),
    Row("digest of another key, key not named", both(at("tokens", {}), at(f"{DIGEST}/digest", OTHER_DIGEST)),
        WrongKey),
    # keyslot areas and the volume key
    Row("one bit of the keyslot area", raw(32768 + 255_999, b"\0\0", fix=False, copies=(0,)), DamagedKeyslot),
    Row("volume key with equal halves", equal_halves, ForbiddenCipher),
    Row("no keyslot left", both(at("keyslots", {}), at("tokens", {}), at(f"{DIGEST}/keyslots", [])),
        MalformedHeader),
    Row("every keyslot only when named", at(f"{SLOT}/priority", 0), MalformedHeader),
    # tokens
    Row("token without type", at(f"{TOKEN}/type", DELETE), MalformedMetadata),
    Row("token without keyslots", at(f"{TOKEN}/keyslots", DELETE), MalformedMetadata),
    Row("token of a keyslot that is not there", at(f"{TOKEN}/keyslots", ["9"]), MalformedMetadata),
    Row("token 32", at("tokens/32", {"type": "x", "keyslots": []}), MalformedMetadata),
    Row("key token of another format", at(f"{TOKEN}/format", 2), MalformedMetadata),
    Row("key token with an unknown member", at(f"{TOKEN}/extra", 1), UnsupportedFeature),
    Row("key token with a bad fingerprint", at(f"{TOKEN}/key_check_value", "ABC"), MalformedMetadata),
    Row("key token with a kid that moves the cursor", at(f"{TOKEN}/kid", "\x1b[2J"), MalformedMetadata),
    Row("key token with an endless kid", at(f"{TOKEN}/kid", "k" * 2000), MalformedMetadata),
    Row("key token with a salt that is no hex", at(f"{TOKEN}/salt", "xyz"), MalformedMetadata),
    # the header's MAC
    Row("MAC: segment moved", at(f"{SEGMENT}/offset", str(DATA_OFFSET + 4096)), HeaderNotAuthentic, "signed"),
    Row("MAC: tweak changed", at(f"{SEGMENT}/iv_tweak", "8"), HeaderNotAuthentic, "signed"),
    Row("MAC: sector size changed", at(f"{SEGMENT}/sector_size", 512), HeaderNotAuthentic, "signed"),
    Row("MAC: flag added", at("config/flags", ["allow-discards"]), HeaderNotAuthentic, "signed"),
    Row("MAC: priority changed", at(f"{SLOT}/priority", 2), HeaderNotAuthentic, "signed"),
    Row("MAC: keyslot planted", second_keyslot(), HeaderNotAuthentic, "signed"),
    Row("MAC: token planted", at("tokens/9", {"type": "x", "keyslots": []}), HeaderNotAuthentic, "signed"),
    Row("MAC: kid changed", at(f"{TOKEN}/kid", "other"), HeaderNotAuthentic, "signed"),
    Row("MAC: generation changed", at("tokens/1/generation", 2), HeaderNotAuthentic, "signed"),
    Row("MAC: label changed", binary(lambda b: replace(b, label="x")), HeaderNotAuthentic, "signed"),
    Row("MAC: removed", at("tokens/1", DELETE), HeaderNotAuthentic, "signed"),
    Row("MAC: of another form", at("tokens/1/mac", "00"), MalformedMetadata, "signed"),
    Row("MAC: twice", changed(lambda j: j["tokens"].update({"2": j["tokens"]["1"]})), MalformedMetadata,
        "signed"),
    Row("MAC: bound to a keyslot", at("tokens/1/keyslots", ["0"]), MalformedMetadata, "signed"),
]  # fmt: skip


def base_image(base: str) -> bytearray:
    return small_image(authenticated=base == "signed")


def open_image(image: bytearray, base: str) -> None:
    header = read_header(reader(image), len(image))
    unlock(header, key(), reader(image), require_authenticated=base == "signed")


@pytest.mark.parametrize("base", ["plain", "signed"])
def test_the_undamaged_header_opens(base: str) -> None:
    open_image(base_image(base), base)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_damage(row: Row) -> None:
    image = base_image(row.base)
    row.mutate(image)
    with pytest.raises(EncfsError) as caught:
        open_image(image, row.base)
    error = caught.value
    assert type(error) is row.error, f"{type(error).__name__}: {error}"
    assert error.part in ("key", "header", "profile")
    shown = f"{error} {error.hint} {error!r}"
    assert KEY.hex() not in shown
    assert all(line.isprintable() for line in shown.splitlines())
    assert len(shown) < 600


def test_the_table_is_as_long_as_it_says() -> None:
    assert len(ROWS) >= 60
    assert len({row.name for row in ROWS}) == len(ROWS)
