"""From an image to its volume key: read the header once, check it, try the keyslots.

`read_header` reads each byte of the header at most once, into memory; everything after works on the parsed
copy, so an image that changes under us cannot pass one check and be used as something else.

Kind: pure

Spec: LUKS2 1.1.4, sections 2.1, 4.3 and 4.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from encfs.errors import (
    CopiesDisagree,
    DamagedKeyslot,
    EncfsError,
    KdfCostTooHigh,
    MalformedHeader,
    NotLuks2,
    TruncatedImage,
    UnsupportedHeader,
    WrongKey,
)
from encfs.keys import Secret, offered_fingerprint
from encfs.luks2 import token
from encfs.luks2.header import (
    BINARY_SIZE,
    COPY_SIZES,
    MAGIC_PRIMARY,
    BinaryHeader,
    HeaderCopy,
    parse_binary_header,
    parse_copy,
)
from encfs.luks2.kdf import Budget, KdfLimits, Pbkdf2
from encfs.luks2.keyslot import check_xts_key, confirms, open_keyslot
from encfs.luks2.layout import Segment, check_layout, data_digest
from encfs.luks2.metadata import Metadata, parse_metadata

# What may be read into memory for a header: both copies of the largest size.
HEADER_AREA_MAX = 2 * COPY_SIZES[-1]

Read: TypeAlias = Callable[[int, int], bytes]  # offset, length -> exactly length bytes, or ImageError
CopyState = Literal["current", "older", "damaged"]


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header, held in memory.

    Attributes:
        binary: of the copy that is used.
        metadata: of the copy that is used.
        segment: the encrypted data, resolved against the image's size.
        copy_used: which copy.
        primary, secondary: the state of each copy.
        salts: the salt of each copy, None for one that is damaged.
        image_size: bytes of the image that holds the header.
        warnings: what the user should know although the header is usable.
        detached: True when the data lies in another image.
    """

    binary: BinaryHeader
    metadata: Metadata
    segment: Segment
    copy_used: Literal["primary", "secondary"]
    primary: CopyState
    secondary: CopyState
    salts: tuple[bytes | None, bytes | None]
    image_size: int
    warnings: tuple[str, ...]
    detached: bool


@dataclass(frozen=True, slots=True)
class Unlocked:
    """An opened volume.

    Attributes:
        volume_key: secret.
        segment: where the data lies.
        keyslot: number of the keyslot that opened.
        authenticated: True when the header carries a MAC and it is right.
    """

    volume_key: Secret
    segment: Segment
    keyslot: int
    authenticated: bool


def read_header(read: Read, image_size: int, *, data_size: int | None = None) -> Header:
    """Read and check the header of an image.

    Args:
        read: gives exactly `length` bytes from `offset`, or raises `ImageError`.
        image_size: bytes of the image that holds the header.
        data_size: for a detached header, bytes of the data image; None when they are one image.

    Raises:
        NotLuks2: no LUKS2 header.
        TruncatedImage: the image ends before header, keyslot areas or segment do.
        MalformedHeader: both copies damaged, or metadata damaged (see its subclasses).
        UnsupportedHeader: outside the profile (see its subclasses).
    """
    primary, primary_error = _try_copy(read, image_size, 0)
    secondary, secondary_error = _find_secondary(read, image_size, primary)
    if primary is None and secondary is None:
        raise _no_copy(read, image_size, primary_error, secondary_error)
    states = _compare(primary, secondary)
    used: Literal["primary", "secondary"] = "primary" if states[0] == "current" else "secondary"
    copy = primary if used == "primary" else secondary
    assert copy is not None
    metadata = parse_metadata(copy.json_text)
    segment = check_layout(metadata, hdr_size=copy.binary.size, header_size=image_size, data_size=data_size)
    token.check_tokens(metadata)
    return Header(
        binary=copy.binary,
        metadata=metadata,
        segment=segment,
        copy_used=used,
        primary=states[0],
        secondary=states[1],
        salts=(_salt(primary), _salt(secondary)),
        image_size=image_size,
        warnings=_warnings(states, primary_error, secondary_error),
        detached=data_size is not None,
    )


def _salt(copy: HeaderCopy | None) -> bytes | None:
    return None if copy is None else copy.binary.salt


def unlock(
    header: Header,
    passphrase: Secret,
    read: Read,
    *,
    limits: KdfLimits | None = None,
    keyslot: int | None = None,
    require_authenticated: bool = False,
    accept_changed_header: bool = False,
) -> Unlocked:
    """Open a volume with a passphrase.

    Args:
        header: from `read_header`.
        passphrase: secret.
        read: reads the keyslot areas from the image that holds the header.
        limits: what unlocking may cost; defaults when absent.
        keyslot: try only this keyslot; needed for one of priority 0.
        require_authenticated: refuse a header without MAC.
        accept_changed_header: do not look at the MAC; only for authenticating the header again after a
            change that the user made with another tool.

    Raises:
        WrongKey: no keyslot opens; the message names the key the image was made with, when known.
        DamagedKeyslot: the passphrase is the one the image names, but its keyslot does not open.
        KdfCostTooHigh: no keyslot within the limits opens, and some were left out for their cost.
        HeaderNotAuthentic: the header's MAC is wrong, or missing and required.
        ForbiddenCipher: a volume key that XTS must not be used with.
    """
    order = _order(header.metadata, passphrase, keyslot)
    budget = Budget(limits or KdfLimits())
    too_costly: KdfCostTooHigh | None = None
    for number in order:
        try:
            volume_key = _try_keyslot(header.metadata, number, passphrase, read, budget)
        except KdfCostTooHigh as exc:
            too_costly = too_costly or exc
            continue
        if volume_key is not None:
            check_xts_key(volume_key)
            authenticated = not accept_changed_header and token.check_header_mac(
                header.binary, header.metadata, volume_key, required=require_authenticated
            )
            return Unlocked(volume_key, header.segment, number, authenticated)
    if too_costly is not None:
        raise too_costly
    raise _wrong_key(header.metadata, passphrase, order)


def _try_keyslot(
    metadata: Metadata, number: int, passphrase: Secret, read: Read, budget: Budget
) -> Secret | None:
    slot = metadata.keyslots[number]
    digest = data_digest(metadata)
    budget.spend(f"keyslot {number}", slot.kdf)
    budget.spend("digest", Pbkdf2(digest.hash, digest.iterations, digest.salt))
    material = read(slot.area.offset, slot.material_size)
    candidate = open_keyslot(slot, material, passphrase)
    return candidate if confirms(digest, candidate) else None


def _order(metadata: Metadata, passphrase: Secret, only: int | None) -> list[int]:
    """Keyslots to try: those our token says this key opens, then by priority, then by number."""
    bound = data_digest(metadata).keyslots
    if only is not None:
        if only not in bound:
            raise WrongKey(
                f"keyslot {only}: does not exist or opens no data",
                hint=f"keyslots in use: {', '.join(map(str, sorted(bound))) or 'none'}",
            )
        return [only]
    usable = [n for n in bound if metadata.keyslots[n].priority != 0]
    if not usable:
        raise MalformedHeader(
            "the header has no keyslot that opens the data",
            hint="it was erased (luksErase) or every keyslot has priority 'ignore'; name one, or restore"
            " a header backup",
        )
    ours = set(token.keyslots_of_key(metadata, offered_fingerprint(passphrase)))
    return sorted(usable, key=lambda n: (n not in ours, -(metadata.keyslots[n].priority or 1), n))


def _wrong_key(metadata: Metadata, passphrase: Secret, tried: list[int]) -> EncfsError:
    offered = offered_fingerprint(passphrase)
    ours = [n for n in token.keyslots_of_key(metadata, offered) if n in tried]
    if ours:
        return DamagedKeyslot(
            f"keyslot {ours[0]}: the key is the right one ({offered}), but does not open it,"
            " so its area or the digest is damaged",
            hint="restore the keyslot area from a header backup, or use another key",
        )
    names = "keyslot " + ", ".join(str(n) for n in sorted(tried))
    made_with = token.describe_keys(metadata)
    if made_with:
        return WrongKey(
            f"{names}: this image was made with key {made_with},"
            f" you offered {offered or 'a passphrase without fingerprint'}",
            hint="release or read the key named first; with an RSA key, check salt and label too",
        )
    return WrongKey(
        f"{names}: no passphrase matched the digest" + (f", you offered {offered}" if offered else ""),
        hint="check that the key's salt and label match those used at encryption time",
    )


def _try_copy(read: Read, image_size: int, offset: int) -> tuple[HeaderCopy | None, EncfsError | None]:
    """One copy, or why there is none. Damage is a value here, because the other copy may be whole."""
    if image_size < offset + BINARY_SIZE:
        return None, TruncatedImage(f"header copy at {offset}: the image has only {image_size} bytes")
    head = read(offset, BINARY_SIZE)
    try:
        size = parse_binary_header(head, offset=offset).size
        if image_size < offset + size:
            return None, TruncatedImage(
                f"header copy at {offset}: {size} bytes, but the image has only {image_size}"
            )
        return parse_copy(head + read(offset + BINARY_SIZE, size - BINARY_SIZE), offset=offset), None
    except (NotLuks2, MalformedHeader, UnsupportedHeader) as exc:
        return None, exc


def _find_secondary(
    read: Read, image_size: int, primary: HeaderCopy | None
) -> tuple[HeaderCopy | None, EncfsError | None]:
    if primary is not None:
        return _try_copy(read, image_size, primary.binary.size)
    found: list[HeaderCopy] = []
    error: EncfsError | None = None
    for offset in COPY_SIZES:
        copy, why = _try_copy(read, image_size, offset)
        if copy is not None:
            found.append(copy)
        elif isinstance(why, MalformedHeader):
            error = why
    if len(found) > 1:
        # Only the place of the first one would decide which is used, and that is for an attacker to choose.
        raise CopiesDisagree(
            f"no usable primary header copy, but {len(found)} secondary ones, wanted one",
            hint="restore a header backup",
        )
    return (found[0], None) if found else (None, error)


def _compare(primary: HeaderCopy | None, secondary: HeaderCopy | None) -> tuple[CopyState, CopyState]:
    if primary is None:
        return "damaged", "current"
    if secondary is None:
        return "current", "damaged"
    first, second = primary.binary, secondary.binary
    if first.uuid != second.uuid:
        raise CopiesDisagree(f"header copies: uuid {first.uuid} and {second.uuid}, wanted one", hint=_RESTORE)
    if first.seqid == second.seqid:
        same = (first.label, first.subsystem, primary.json_text)
        if same != (second.label, second.subsystem, secondary.json_text):
            raise CopiesDisagree(
                f"header copies: both have sequence id {first.seqid} but differ, wanted equal ones",
                hint=_RESTORE,
            )
        return "current", "current"
    if abs(first.seqid - second.seqid) > 1:
        # A writer updates one copy, then the other: a crash in between leaves a distance of one.
        raise CopiesDisagree(
            f"header copies: sequence ids {first.seqid} and {second.seqid}, wanted at most one apart",
            hint=_RESTORE,
        )
    return ("current", "older") if first.seqid > second.seqid else ("older", "current")


_RESTORE = (
    "no crash leaves this; somebody changed one copy. Restore a header backup (cryptsetup luksHeaderRestore)"
)


def _no_copy(
    read: Read, image_size: int, primary: EncfsError | None, secondary: EncfsError | None
) -> EncfsError:
    """The most telling reason why there is no header at all."""
    assert primary is not None
    if isinstance(primary, MalformedHeader) or isinstance(secondary, MalformedHeader):
        why = primary if isinstance(primary, MalformedHeader) else secondary
        return MalformedHeader(
            f"both header copies are damaged: {why}",
            hint="restore a header backup (cryptsetup luksHeaderRestore); without one the data is lost",
        )
    if isinstance(primary, TruncatedImage):
        head = read(0, min(image_size, len(MAGIC_PRIMARY)))
        if not head or head != MAGIC_PRIMARY[: len(head)]:
            return NotLuks2("no LUKS header at offset 0", hint="is this the right file?")
        primary.hint = "the image was cut off; copy it again"
    return primary


def _warnings(
    states: tuple[CopyState, CopyState], primary: EncfsError | None, secondary: EncfsError | None
) -> tuple[str, ...]:
    found = []
    for name, state, why in zip(("primary", "secondary"), states, (primary, secondary), strict=True):
        if state == "damaged":
            reason = f" ({why})" if why is not None else ""
            found.append(f"the {name} header copy is damaged{reason}; repair it with: cryptsetup repair")
        elif state == "older":
            found.append(f"the {name} header copy is one update behind; an update was cut short")
    return tuple(found)
