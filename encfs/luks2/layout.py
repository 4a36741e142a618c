"""What the objects of the metadata say together: references, places, overlaps, and the one segment.

The header image, in bytes:

    0           hdr_size      2*hdr_size                        + keyslots_size      segment offset
    | primary     | secondary   | keyslot areas, no overlaps        |  (gap)            | data ...

With a detached header the segment lies in another image and may start at 0.

Kind: pure

Spec: LUKS2 1.1.4, sections 2.3 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from encfs.errors import ForbiddenCipher, LayoutError, MalformedMetadata, TruncatedImage, UnsupportedFeature
from encfs.luks2.header import BINARY_SIZE
from encfs.luks2.metadata import INTEGRITY_KEY_SIZE, XTS_KEY_SIZES, Digest, Keyslot, Metadata

MAX_KEYSLOTS_SIZE = 128 * 1024 * 1024  # bytes, the reference implementation's limit
AREA_ALIGNMENT = 4096  # bytes
TWEAK_UNIT = 512  # bytes a step of the tweak stands for, whatever the sector size


@dataclass(frozen=True, slots=True)
class Segment:
    """The encrypted data, resolved against a real image.

    Attributes:
        offset: bytes from the start of the data image.
        size: bytes, a multiple of `sector_size`.
        sector_size: bytes.
        iv_tweak: added to the tweak, in 512-byte units.
        cipher: in dm-crypt notation.
        key_size: bytes of the volume key.
        integrity: every sector has an authentication tag; `size` then counts tags and journal too.
    """

    offset: int
    size: int
    sector_size: int
    iv_tweak: int
    cipher: str
    key_size: int
    integrity: bool = False


def keyslot_areas(hdr_size: int, metadata: Metadata) -> tuple[int, int]:
    """Start and end, in bytes, of the room for keyslot areas."""
    start = 2 * hdr_size
    return start, start + metadata.config.keyslots_size


def data_digest(metadata: Metadata) -> Digest:
    """The digest that confirms the volume key of the segment."""
    return next(digest for digest in metadata.digests.values() if digest.segments)


def check_layout(metadata: Metadata, *, hdr_size: int, header_size: int, data_size: int | None) -> Segment:
    """Check what the objects say together, and resolve the segment.

    Args:
        metadata: parsed, untrusted.
        hdr_size: bytes of one header copy.
        header_size: bytes of the image that holds the header.
        data_size: bytes of the data image of a detached header; None when the header is in the image.

    Raises:
        MalformedMetadata: a reference to nothing, a keyslot or segment without digest.
        LayoutError: areas that overlap or leave their room; a segment over the header.
        TruncatedImage: an area or the segment lies past the end of the image.
        UnsupportedFeature: other than one segment.
        ForbiddenCipher: a volume key of another size than XTS has.
    """
    _check_config(metadata, hdr_size)
    _check_references(metadata)
    _check_areas(metadata, hdr_size, header_size)
    return _resolve_segment(metadata, hdr_size, header_size, data_size)


def _check_config(metadata: Metadata, hdr_size: int) -> None:
    config = metadata.config
    if config.json_size != hdr_size - BINARY_SIZE:
        raise LayoutError(f"config: json_size {config.json_size}, wanted {hdr_size - BINARY_SIZE}")
    if config.keyslots_size % AREA_ALIGNMENT or config.keyslots_size > MAX_KEYSLOTS_SIZE:
        raise LayoutError(
            f"config: keyslots_size {config.keyslots_size},"
            f" wanted a multiple of {AREA_ALIGNMENT} up to {MAX_KEYSLOTS_SIZE}"
        )


def _check_references(metadata: Metadata) -> None:
    for n, token in metadata.tokens.items():
        _check_known(f"token {n}", "keyslot", token.keyslots, metadata.keyslots)
    bound_keyslots: list[int] = []
    bound_segments: list[int] = []
    for n, digest in metadata.digests.items():
        _check_known(f"digest {n}", "keyslot", digest.keyslots, metadata.keyslots)
        _check_known(f"digest {n}", "segment", digest.segments, metadata.segments)
        bound_keyslots.extend(digest.keyslots)
        bound_segments.extend(digest.segments)
    _check_bound_once("keyslot", bound_keyslots, metadata.keyslots)
    _check_bound_once("segment", bound_segments, metadata.segments)


def _check_known(owner: str, what: str, wanted: tuple[int, ...], known: object) -> None:
    assert hasattr(known, "__contains__")
    for number in wanted:
        if number not in known:
            raise MalformedMetadata(f"{owner}: refers to {what} {number}, which does not exist")


def _check_bound_once(what: str, bound: list[int], known: object) -> None:
    assert hasattr(known, "__iter__")
    for number in known:
        count = bound.count(number)
        if count != 1:
            raise MalformedMetadata(f"{what} {number}: bound to {count} digests, wanted exactly one")


def _check_areas(metadata: Metadata, hdr_size: int, header_size: int) -> None:
    start, end = keyslot_areas(hdr_size, metadata)
    previous: tuple[int, Keyslot] | None = None
    by_offset = sorted(metadata.keyslots.items(), key=lambda item: item[1].area.offset)
    for number, slot in by_offset:
        area = slot.area
        if area.offset % AREA_ALIGNMENT or area.size % AREA_ALIGNMENT:
            raise LayoutError(f"keyslot {number}: area is not aligned to {AREA_ALIGNMENT} bytes")
        if area.offset < start or area.end > end:
            raise LayoutError(
                f"keyslot {number}: area {area.offset} to {area.end}, wanted inside {start} to {end}"
            )
        if area.size < slot.material_size:
            raise LayoutError(
                f"keyslot {number}: area of {area.size} bytes, wanted at least {slot.material_size}"
            )
        if previous is not None and previous[1].area.end > area.offset:
            raise LayoutError(f"keyslot {number}: area overlaps that of keyslot {previous[0]}")
        if area.end > header_size:
            raise TruncatedImage(
                f"keyslot {number}: area ends at {area.end}, but the image has {header_size} bytes",
                hint="the image was cut off; copy it again",
            )
        previous = number, slot


def _resolve_segment(metadata: Metadata, hdr_size: int, header_size: int, data_size: int | None) -> Segment:
    if list(metadata.segments) != [0]:
        raise UnsupportedFeature(
            f"segments: {len(metadata.segments)} of them, wanted exactly one, number 0",
            hint="several segments mean an unfinished re-encryption",
        )
    found = metadata.segments[0]
    if data_size is None:
        _, header_end = keyslot_areas(hdr_size, metadata)
        if found.offset < header_end:
            raise LayoutError(
                f"segment 0: starts at {found.offset} inside the header, which ends at {header_end}",
                hint="a detached header? then give header and image separately (--header)",
            )
    image_size = header_size if data_size is None else data_size
    if found.offset % found.sector_size:
        raise LayoutError(f"segment 0: offset {found.offset}, wanted a multiple of {found.sector_size}")
    if found.offset >= image_size:
        raise TruncatedImage(
            f"segment 0: starts at {found.offset}, but the image has {image_size} bytes",
            hint="the image was cut off; copy it again",
        )
    size = image_size - found.offset if found.size is None else found.size
    if size == 0 or size % found.sector_size:
        raise LayoutError(f"segment 0: {size} bytes, wanted a multiple of {found.sector_size}")
    if found.offset + size > image_size:
        raise TruncatedImage(
            f"segment 0: ends at {found.offset + size}, but the image has {image_size} bytes",
            hint="the image was cut off; copy it again",
        )
    if found.iv_tweak + size // TWEAK_UNIT >= 2**64:
        raise LayoutError(f"segment 0: iv_tweak {found.iv_tweak}, wanted one that does not wrap")
    return Segment(
        found.offset,
        size,
        found.sector_size,
        found.iv_tweak,
        found.encryption,
        _volume_key_size(metadata, integrity=found.integrity),
        found.integrity,
    )


def _volume_key_size(metadata: Metadata, *, integrity: bool) -> int:
    """Bytes of the volume key. A header that drops or claims integrity is refused here, by the key's size."""
    wanted = (INTEGRITY_KEY_SIZE,) if integrity else XTS_KEY_SIZES
    sizes = {metadata.keyslots[n].key_size for n in data_digest(metadata).keyslots}
    for size in sizes:
        if size not in wanted:
            raise ForbiddenCipher(
                f"volume key of {size} bytes, wanted {' or '.join(map(str, wanted))} for aes-xts-plain64"
                f" {'with' if integrity else 'without'} integrity"
            )
    if len(sizes) > 1:
        raise MalformedMetadata(f"keyslots hold volume keys of {sorted(sizes)} bytes, wanted one size")
    return sizes.pop() if sizes else wanted[-1]


def free_gaps(hdr_size: int, metadata: Metadata) -> list[tuple[int, int]]:
    """Unused room between keyslot areas, as (offset, size) in bytes, in order."""
    at, end = keyslot_areas(hdr_size, metadata)
    gaps = []
    for area in sorted((slot.area for slot in metadata.keyslots.values()), key=lambda area: area.offset):
        if area.offset > at:
            gaps.append((at, area.offset - at))
        at = area.end
    if end > at:
        gaps.append((at, end - at))
    return gaps
