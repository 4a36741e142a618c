"""Adding, removing and rotating keyslots, as an ordered list of writes that may stop anywhere.

Each function returns an `Edit`: the caller stores its writes one by one, in order, with a flush after each,
and changes nothing else. Cut off before, after or inside any write, the image still opens with a key that
opened it before, or with the new one:

- a new key's area is written first, into room that no keyslot uses, and only then named by the metadata;
- header copies are written one after the other, and the copy that is *not* in use goes first, so one whole
  copy exists at every moment;
- an area is overwritten before its keyslot disappears from the metadata. Cut off in between, the keyslot
  is still listed and its removal can be repeated; the other way round, key material would stay on disk
  with nothing left that knows where.

Rotation is an edit that adds the new key and, only after the caller has opened the image with it, one that
removes the old key. The data is never encrypted again: whoever once had the volume key keeps it.

Kind: pure

Spec: LUKS2 1.1.4, sections 4 (one header copy valid at all times), 4.2, 4.4 and 4.5.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from encfs.errors import DamagedKeyslot, KdfCostTooHigh, LastKeyslot, NoFreeKeyslot, UsageError, WrongKey
from encfs.keys import Secret, offered_fingerprint
from encfs.luks2 import token as tokens
from encfs.luks2.create import Random, area_size
from encfs.luks2.header import SALT_SIZE, BinaryHeader, HeaderCopy, build_copy
from encfs.luks2.kdf import Kdf, KdfLimits, new_kdf
from encfs.luks2.keyslot import seal_keyslot
from encfs.luks2.layout import check_layout, data_digest, free_gaps
from encfs.luks2.metadata import (
    CIPHER,
    MAX_OBJECTS,
    Area,
    Digest,
    Keyslot,
    Metadata,
    Token,
    build_metadata,
    parse_metadata,
)
from encfs.luks2.unlock import Header, Read, Unlocked, read_header, unlock


class Write(NamedTuple):
    """Bytes to store at an offset of the header image, followed by a flush."""

    offset: int
    data: bytes


Store: TypeAlias = Callable[[Write], None]


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the header.

    Attributes:
        writes: in order, each followed by a flush.
        keyslot: the keyslot it adds or removes; None when it only signs.
        header: what `read_header` will find afterwards.
    """

    writes: tuple[Write, ...]
    keyslot: int | None
    header: Header


def add_keyslot(
    header: Header,
    unlocked: Unlocked,
    passphrase: Secret,
    *,
    keyslot: int | None = None,
    kdf: Kdf | None = None,
    priority: int | None = None,
    key_token: tokens.KeyToken | None = None,
    random: Random = os.urandom,
) -> Edit:
    """Let one more passphrase open the volume.

    Args:
        header: as read; only this copy of it is used.
        unlocked: proof of the volume key, from `unlock` on this header.
        passphrase: the new one, secret.
        keyslot: number wanted; the lowest free one when absent.
        kdf: from `new_kdf`; when absent pbkdf2 for a random key, argon2id for a typed passphrase.
        priority: 0 (only when named), 1 or 2 (tried first); not stated when absent.
        key_token: where the passphrase comes from; its fingerprint is filled in when it has one.

    Raises:
        NoFreeKeyslot: no number, no room for the area, or no room in the JSON area.
        UsageError: the number is taken or out of range.
    """
    metadata = header.metadata
    number = _free_number(metadata, keyslot)
    volume_key = unlocked.volume_key
    if kdf is None:
        kdf = new_kdf(
            "pbkdf2" if passphrase.full_entropy else "argon2id", passphrase=passphrase, random=random
        )
    slot = Keyslot(len(volume_key), _free_area(header, len(volume_key)), kdf, "sha256", priority)
    changed = replace(
        metadata,
        keyslots=dict(sorted({**metadata.keyslots, number: slot}.items())),
        digests={n: _bind(d, number) for n, d in metadata.digests.items()},
        tokens=_with_key_token(metadata.tokens, number, key_token, passphrase),
    )
    material = Write(slot.area.offset, seal_keyslot(slot, volume_key, passphrase, random))
    return _edit(header, changed, unlocked, number, before=(material,), random=random)


def remove_keyslot(
    header: Header,
    unlocked: Unlocked,
    keyslot: int,
    *,
    force: bool = False,
    random: Random = os.urandom,
) -> Edit:
    """Take a keyslot away and destroy its key material.

    Args:
        header: as read.
        unlocked: from `unlock` with a key that stays; its keyslot is the one known to work.
        keyslot: number of the one to remove.
        force: remove it although no other keyslot is known to open.

    Raises:
        LastKeyslot: it is the keyslot that was just opened, and `force` is not set.
        UsageError: there is no such keyslot.
    """
    metadata = header.metadata
    if keyslot not in metadata.keyslots:
        raise UsageError(
            f"keyslot {keyslot}: does not exist",
            hint=f"keyslots in use: {', '.join(map(str, sorted(metadata.keyslots)))}",
        )
    if keyslot == unlocked.keyslot and not force:
        others = sorted(n for n in data_digest(metadata).keyslots if n != keyslot)
        raise LastKeyslot(
            f"keyslot {keyslot}: no other keyslot was proved to open, wanted one that stays",
            hint=f"offer the key of keyslot {' or '.join(map(str, others))}, or --force"
            if others
            else "it is the last one: without it the data is lost for ever (--force)",
        )
    area = metadata.keyslots[keyslot].area
    changed = replace(
        metadata,
        keyslots={n: slot for n, slot in metadata.keyslots.items() if n != keyslot},
        digests=_without_keyslot(metadata.digests, keyslot),
        tokens=_tokens_without(metadata.tokens, keyslot),
    )
    wipe = Write(area.offset, random(area.size))
    return _edit(header, changed, unlocked, keyslot, before=(wipe,), random=random)


def rotate(
    header: Header,
    unlocked: Unlocked,
    passphrase: Secret,
    *,
    read: Read,
    store: Store,
    kdf: Kdf | None = None,
    key_token: tokens.KeyToken | None = None,
    limits: KdfLimits | None = None,
    random: Random = os.urandom,
) -> Header:
    """Replace the key of the keyslot that was opened by a new one; may be cut off and called again.

    The new key is added, the image is read back and opened with it, and only then the old keyslot goes.
    Called again after a cut, with the old key and the same new one, it finds the new keyslot and goes on
    from there.

    Args:
        header, unlocked: as read and opened with the old key.
        passphrase: the new one, secret.
        read: reads the header image.
        store: stores one write durably before it returns.
        kdf, key_token, random: as for `add_keyslot`.
        limits: what opening with the new key may cost.

    Returns:
        The header as it is now.

    Raises:
        UsageError: the new key is the old one.
        NoFreeKeyslot: no room for a second keyslot beside the old one.
        ImageError, WrongKey: the image read back does not open with the new key; the old one still does.
    """
    new = _keyslot_of(header, passphrase, read, limits)
    if new == unlocked.keyslot:
        raise UsageError(f"keyslot {new}: the new key is the old one, wanted another")
    if new is None:
        priority = header.metadata.keyslots[unlocked.keyslot].priority
        edit = add_keyslot(
            header, unlocked, passphrase, kdf=kdf, priority=priority, key_token=key_token, random=random
        )
        for write in edit.writes:
            store(write)
        new = edit.keyslot
    data_size = header.segment.offset + header.segment.size if header.detached else None
    header = read_header(read, header.image_size, data_size=data_size)
    proved = unlock(header, passphrase, read, limits=limits, keyslot=new)
    removal = remove_keyslot(header, proved, unlocked.keyslot, random=random)
    for write in removal.writes:
        store(write)
    return removal.header


def authenticate_header(
    header: Header, unlocked: Unlocked, *, above: int = 0, random: Random = os.urandom
) -> Edit:
    """Put a MAC on the header, or renew it after a change by another tool; its generation is over `above`.

    Raises:
        NoFreeKeyslot: no room for one more token.
    """
    signed = tokens.authenticate(header.binary, header.metadata, unlocked.volume_key, above=above)
    return _edit(header, signed, None, None, before=(), random=random)


def _keyslot_of(header: Header, passphrase: Secret, read: Read, limits: KdfLimits | None) -> int | None:
    """The keyslot that this passphrase opens already, as after an interrupted rotation."""
    try:
        return unlock(header, passphrase, read, limits=limits).keyslot
    except (WrongKey, DamagedKeyslot, KdfCostTooHigh):
        return None


def _edit(
    header: Header,
    metadata: Metadata,
    sign: Unlocked | None,
    keyslot: int | None,
    *,
    before: tuple[Write, ...],
    random: Random,
) -> Edit:
    if sign is not None and tokens.header_generation(header.metadata) is not None:
        metadata = tokens.authenticate(header.binary, metadata, sign.volume_key)
    after = _next_header(header, metadata, random)
    return Edit((*before, *_copy_writes(header, after)), keyslot, after)


def _next_header(header: Header, metadata: Metadata, random: Random) -> Header:
    """The header after both copies are written."""
    # A salt stays as long as its copy is whole (section 2.1).
    first, second = (salt or random(SALT_SIZE) for salt in header.salts)
    binary = replace(header.binary, seqid=header.binary.seqid + 1, offset=0, salt=first)
    segment = check_layout(
        metadata,
        hdr_size=binary.size,
        header_size=header.image_size,
        data_size=header.segment.offset + header.segment.size if header.detached else None,
    )
    return replace(
        header,
        binary=binary,
        metadata=metadata,
        segment=segment,
        copy_used="primary",
        primary="current",
        secondary="current",
        salts=(first, second),
        warnings=(),
    )


def _copy_writes(before: Header, after: Header) -> tuple[Write, ...]:
    """Both copies, the one that is not in use first."""
    text = build_metadata(after.metadata)
    parse_metadata(text)  # what we write, we can read
    if len(text) >= after.metadata.config.json_size:
        raise NoFreeKeyslot(
            f"JSON area: {len(text)} bytes of metadata, wanted less than {after.metadata.config.json_size}",
            hint="remove a keyslot or a token first",
        )
    primary, secondary = (
        Write(binary.offset, build_copy(HeaderCopy(binary, text))) for binary in _binaries(after)
    )
    if before.copy_used == "primary" and before.secondary != "current":
        return secondary, primary
    return primary, secondary


def _binaries(header: Header) -> tuple[BinaryHeader, BinaryHeader]:
    second_salt = header.salts[1]
    assert second_salt is not None
    return header.binary, replace(header.binary, offset=header.binary.size, salt=second_salt)


def _free_number(metadata: Metadata, wanted: int | None) -> int:
    if wanted is not None:
        if not 0 <= wanted < MAX_OBJECTS:
            raise UsageError(f"keyslot {wanted}: out of range, wanted 0 to {MAX_OBJECTS - 1}")
        if wanted in metadata.keyslots:
            raise UsageError(f"keyslot {wanted}: is in use", hint="leave the number out to take a free one")
        return wanted
    for number in range(MAX_OBJECTS):
        if number not in metadata.keyslots:
            return number
    raise NoFreeKeyslot(f"all {MAX_OBJECTS} keyslots are in use", hint="remove one first: encfs key remove")


def _free_area(header: Header, key_size: int) -> Area:
    size = area_size(key_size)
    for offset, room in free_gaps(header.binary.size, header.metadata):
        if room >= size and offset + size <= header.image_size:
            return Area(offset, size, CIPHER, 64)
    raise NoFreeKeyslot(
        f"no room for a keyslot area of {size} bytes in the header",
        hint="remove a keyslot first, or create the image anew with a larger header",
    )


def _bind(digest: Digest, number: int) -> Digest:
    """The digest of the data takes the new keyslot; digests of unbound keys stay as they are."""
    return replace(digest, keyslots=(*digest.keyslots, number)) if digest.segments else digest


def _without_keyslot(digests: Mapping[int, Digest], keyslot: int) -> dict[int, Digest]:
    left = {
        n: replace(digest, keyslots=tuple(k for k in digest.keyslots if k != keyslot))
        for n, digest in digests.items()
    }
    # The digest of an unbound key goes with its last keyslot; that of the data stays (section 4.4).
    return {n: digest for n, digest in left.items() if digest.keyslots or digest.segments}


def _tokens_without(found: Mapping[int, Token], keyslot: int) -> dict[int, Token]:
    """Unbind the keyslot; a key token that speaks of no keyslot any more goes too."""
    left = {
        n: replace(token, keyslots=tuple(k for k in token.keyslots if k != keyslot))
        for n, token in found.items()
    }
    return {n: token for n, token in left.items() if token.keyslots or token.type != tokens.KEY_TYPE}


def _with_key_token(
    found: Mapping[int, Token], number: int, key_token: tokens.KeyToken | None, passphrase: Secret
) -> dict[int, Token]:
    fingerprint = offered_fingerprint(passphrase)
    if fingerprint is not None:
        key_token = replace(key_token or tokens.KeyToken(), key_check_value=fingerprint)
    if key_token is None:
        return dict(found)
    return {**found, tokens.free_token_number(found): key_token.token((number,))}
