"""A new LUKS2 header as bytes: both copies, one keyslot, our tokens. No I/O, no device-mapper.

Every random choice comes from one injected function, so the same inputs and the same function give the
same bytes; `SeededRandom` is such a function for reproducible images.

Kind: pure

Spec: LUKS2 1.1.4, sections 4.1 and 4.2.
"""

from __future__ import annotations

import hashlib
import os
import uuid as uuids
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from encfs.errors import UsageError
from encfs.keys import Secret, offered_fingerprint
from encfs.luks2 import kdf as kdfs
from encfs.luks2 import token as tokens_
from encfs.luks2.af import STRIPES
from encfs.luks2.fields import Fields, printable
from encfs.luks2.header import (
    BINARY_SIZE,
    COPY_SIZES,
    LABEL_SIZE,
    SALT_SIZE,
    UUID_PATTERN,
    BinaryHeader,
    HeaderCopy,
    build_copy,
)
from encfs.luks2.keyslot import check_xts_key, make_digest, seal_keyslot
from encfs.luks2.layout import AREA_ALIGNMENT, Segment, check_layout
from encfs.luks2.metadata import (
    CIPHER,
    INTEGRITY_KEY_SIZE,
    INTEGRITY_SECTOR_SIZES,
    SECTOR_SIZES,
    XTS_KEY_SIZES,
    Area,
    Config,
    CryptSegment,
    Keyslot,
    Metadata,
    Token,
    build_metadata,
    parse_metadata,
)

DEFAULT_DATA_OFFSET = 16 * 1024 * 1024  # bytes, what cryptsetup uses
DIGEST_ITERATIONS = 1000  # the volume key is random, stretching it would protect nothing
VOLUME_KEY_SIZE = 64  # bytes: AES-256-XTS

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class FormattedHeader:
    """A header ready to be stored.

    Attributes:
        writes: (offset, bytes) in the order they should be stored; all else below `data_offset` is zero.
        data_offset: bytes before the encrypted data, 0 for a detached header.
        header_size: bytes of the header region.
        segment: the encrypted data.
        uuid: of the image.
        binary, metadata: what the header says.
    """

    writes: tuple[tuple[int, bytes], ...]
    data_offset: int
    header_size: int
    segment: Segment
    uuid: str
    binary: BinaryHeader
    metadata: Metadata

    @property
    def data(self) -> bytes:
        """The whole header region, `header_size` bytes."""
        region = bytearray(self.header_size)
        for offset, part in self.writes:
            region[offset : offset + len(part)] = part
        return bytes(region)


class SeededRandom:
    """Deterministic bytes from a secret seed, for reproducible images.

    SHAKE-256 of seed, purpose, the number of the call and the size asked for.

    Args:
        seed: at least 32 bytes, secret: whoever knows it knows the volume key made from it.
        purpose: separates streams of one seed.
    """

    def __init__(self, seed: Secret, purpose: str) -> None:
        if len(seed) < 32:
            raise UsageError(f"seed of {len(seed)} bytes, wanted at least 32")
        self._prefix = len(seed).to_bytes(4, "big") + seed.reveal() + purpose.encode("utf-8") + b"\0"
        self._counter = 0

    def __call__(self, size: int) -> bytes:
        self._counter += 1
        block = self._prefix + self._counter.to_bytes(8, "big") + size.to_bytes(8, "big")
        return hashlib.shake_256(block).digest(size)


def format_header(
    *,
    image_size: int,
    passphrase: Secret,
    volume_key: Secret,
    sector_size: int = 4096,
    pbkdf: str = "pbkdf2",
    iterations: int | None = None,
    hash_name: str = "sha256",
    argon2_memory_kib: int = 64 * 1024,
    argon2_cpus: int = 1,
    uuid: str | None = None,
    label: str = "",
    data_offset: int = DEFAULT_DATA_OFFSET,
    detached: bool = False,
    key_token: tokens_.KeyToken | None = None,
    tokens: Sequence[Mapping[str, object]] = (),
    authenticated: bool = True,
    random: Random = os.urandom,
) -> FormattedHeader:
    """Make a header for a new image.

    Args:
        image_size: bytes of the image that will hold the data.
        passphrase: opens keyslot 0, secret.
        volume_key: 32 or 64 bytes, or 96 for a volume with integrity, secret.
        sector_size: bytes.
        pbkdf: `pbkdf2`, `argon2i` or `argon2id`.
        iterations: pbkdf2 iterations or argon2 passes; a default by the passphrase's entropy when absent.
        data_offset: bytes of the header region, a multiple of 4096; with `detached`, of the header file.
        detached: the data lies in another image, from its start.
        key_token: where the passphrase comes from; its fingerprint is filled in when it has one.
        tokens: further tokens as JSON objects.
        authenticated: add a MAC over the header.
        random: source of salts, splitter filling and the uuid.

    Raises:
        UsageError: parameters that do not make a header within our own profile.
        ForbiddenCipher: a volume key with equal halves.
    """
    _check_parameters(volume_key, sector_size, data_offset)
    _check_texts(label, uuid)
    check_xts_key(volume_key)
    hdr_size = COPY_SIZES[0]
    area = Area(2 * hdr_size, area_size(len(volume_key)), CIPHER, 64)
    kdf = kdfs.new_kdf(
        pbkdf, passphrase=passphrase, random=random, iterations=iterations, hash_name=hash_name,
        memory_kib=argon2_memory_kib, cpus=argon2_cpus,
    )  # fmt: skip
    slot = Keyslot(len(volume_key), area, kdf, "sha256")
    digest = make_digest(
        volume_key,
        keyslots=(0,),
        salt=random(kdfs.SALT_SIZE),
        hash_name="sha256",
        iterations=DIGEST_ITERATIONS,
    )
    integrity = len(volume_key) == INTEGRITY_KEY_SIZE
    segment = CryptSegment(0 if detached else data_offset, None, 0, CIPHER, sector_size, integrity)
    config = Config(hdr_size - BINARY_SIZE, data_offset - 2 * hdr_size)
    metadata = Metadata(
        {0: slot},
        _tokens(_with_fingerprint(key_token, passphrase), tokens),
        {0: segment},
        {0: digest},
        config,
    )
    binary = BinaryHeader(
        hdr_size, 0, 1, label, "", uuid or str(uuids.UUID(bytes=random(16), version=4)), random(SALT_SIZE)
    )
    if authenticated:
        metadata = tokens_.authenticate(binary, metadata, volume_key)
    resolved = check_layout(
        metadata,
        hdr_size=hdr_size,
        header_size=data_offset if detached else image_size,
        data_size=image_size if detached else None,
    )
    writes = ((area.offset, seal_keyslot(slot, volume_key, passphrase, random)),)
    return FormattedHeader(
        writes + header_writes(binary, metadata, second_salt=random(SALT_SIZE)),
        segment.offset, data_offset, resolved, binary.uuid, binary, metadata,
    )  # fmt: skip


def new_volume_key(size: int = VOLUME_KEY_SIZE, *, random: Random = os.urandom) -> Secret:
    """A fresh volume key of `size` bytes, secret, with two different halves."""
    while True:
        key = random(size)
        half = 32 if size == INTEGRITY_KEY_SIZE else size // 2
        if key[:half] != key[half : 2 * half]:
            return Secret(key, full_entropy=True)


def area_size(key_size: int) -> int:
    """Bytes of a keyslot area for a volume key of `key_size` bytes, rounded up to its alignment."""
    needed = key_size * STRIPES
    return -(-needed // AREA_ALIGNMENT) * AREA_ALIGNMENT


def header_writes(
    binary: BinaryHeader, metadata: Metadata, *, second_salt: bytes
) -> tuple[tuple[int, bytes], ...]:
    """Both copies as (offset, bytes): the primary, then the secondary with a salt of its own."""
    text = build_metadata(metadata)
    parse_metadata(text)  # what we write, we can read
    second = replace(binary, offset=binary.size, salt=second_salt)
    return (
        (0, build_copy(HeaderCopy(binary, text))),
        (binary.size, build_copy(HeaderCopy(second, text))),
    )


def _check_parameters(volume_key: Secret, sector_size: int, data_offset: int) -> None:
    if len(volume_key) not in (*XTS_KEY_SIZES, INTEGRITY_KEY_SIZE):
        raise UsageError(f"volume key of {len(volume_key)} bytes, wanted 32, 64 or 96")
    sizes = INTEGRITY_SECTOR_SIZES if len(volume_key) == INTEGRITY_KEY_SIZE else SECTOR_SIZES
    if sector_size not in sizes:
        raise UsageError(f"sector size {sector_size}, wanted one of {', '.join(map(str, sizes))}")
    least = 2 * COPY_SIZES[0] + area_size(len(volume_key))
    if data_offset % AREA_ALIGNMENT or data_offset < least:
        raise UsageError(
            f"data offset {data_offset}, wanted a multiple of {AREA_ALIGNMENT} and at least {least}"
        )


def _check_texts(label: str, uuid: str | None) -> None:
    size = len(label.encode("utf-8"))
    if size >= LABEL_SIZE or "\0" in label:
        raise UsageError(f"label of {size} bytes, wanted at most {LABEL_SIZE - 1}, without NUL")
    if uuid is not None and not UUID_PATTERN.fullmatch(uuid):
        raise UsageError(f"uuid {printable(uuid)}, wanted 8-4-4-4-12 hex digits")


def _with_fingerprint(key_token: tokens_.KeyToken | None, passphrase: Secret) -> tokens_.KeyToken | None:
    fingerprint = offered_fingerprint(passphrase)
    if fingerprint is None:
        return key_token
    return replace(key_token or tokens_.KeyToken(), key_check_value=fingerprint)


def _tokens(key_token: tokens_.KeyToken | None, others: Sequence[Mapping[str, object]]) -> dict[int, Token]:
    found = [] if key_token is None else [key_token.token((0,))]
    for value in others:
        fields = Fields("token", dict(value))
        found.append(Token(fields.string("type"), fields.numbers("keyslots"), fields.rest()))
    return dict(enumerate(found))
