"""What a header says, for `encfs info`: a summary value, as text with the layout to scale, and as JSON.

Needs no key and holds no secret; salts and digests are left out because nobody reads them. Texts from the
header are untrusted and are shown escaped.

Kind: pure
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from encfs import cipher
from encfs.errors import LayoutError
from encfs.integrity.layout import new_layout
from encfs.luks2 import token as tokens
from encfs.luks2.create import area_size
from encfs.luks2.fields import printable
from encfs.luks2.kdf import Argon2, Kdf
from encfs.luks2.layout import data_digest, free_gaps, keyslot_areas
from encfs.luks2.metadata import INTEGRITY, MAX_OBJECTS
from encfs.luks2.unlock import Header

_PRIORITIES = {None: "normal", 0: "only when named", 1: "normal", 2: "first"}
_ENGINES = {
    "compiled": "compiled, one call a request",
    "python": "pure Python, slow: the package was installed without a compiler",
}
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
LABEL_WIDTH = 14  # columns of the names on the left


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image: bytes from `start` up to `end`."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class KeyslotSummary:
    """One keyslot, and the key it was made with as far as the header names it."""

    number: int
    opens_data: bool
    key_bits: int
    kdf: str
    priority: str
    offset: int
    size: int
    kid: str = ""
    key_version: str = ""
    salt: str = ""
    label: str = ""
    key_check_value: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything `encfs info` shows; sizes and offsets in bytes.

    `engine` says what encrypts on this machine (`encfs.cipher`); all else is in the header.
    """

    format: str
    uuid: str
    label: str
    subsystem: str
    sequence_id: int
    copy_used: str
    primary_copy: str
    secondary_copy: str
    image_size: int
    detached_header: bool
    cipher: str
    integrity: str
    sealed_size: int | None
    key_bits: int
    sector_size: int
    iv_tweak: int
    data_offset: int
    data_size: int
    data_to_end: bool
    keyslots: tuple[KeyslotSummary, ...]
    free_keyslots: int
    tokens: tuple[str, ...]
    header_mac: bool
    header_generation: int | None
    flags: tuple[str, ...]
    header_regions: tuple[Region, ...]
    warnings: tuple[str, ...]
    engine: str


def describe(header: Header, image_size: int, *, sealed_size: int | None = None, width: int = 80) -> str:
    """The summary as text."""
    return summary_text(summarise(header, image_size, sealed_size=sealed_size), width=width)


def to_json(header: Header, image_size: int, *, sealed_size: int | None = None) -> str:
    """The summary as JSON text."""
    summary = summarise(header, image_size, sealed_size=sealed_size)
    return json.dumps(asdict(summary), indent=2, ensure_ascii=True)


def summarise(header: Header, image_size: int, *, sealed_size: int | None = None) -> Summary:
    """The summary of a checked header.

    Args:
        header: from `read_header`.
        image_size: bytes of the image that holds the data.
        sealed_size: bytes of it that a hash tree seals, None without one. Proves nothing.
    """
    metadata, segment = header.metadata, header.segment
    generation = tokens.header_generation(metadata)
    return Summary(
        format="LUKS2",
        uuid=header.binary.uuid,
        label=header.binary.label,
        subsystem=header.binary.subsystem,
        sequence_id=header.binary.seqid,
        copy_used=header.copy_used,
        primary_copy=header.primary,
        secondary_copy=header.secondary,
        image_size=image_size,
        detached_header=header.detached,
        cipher=segment.cipher,
        integrity=INTEGRITY if segment.integrity else "",
        sealed_size=sealed_size,
        key_bits=segment.key_size * 8,
        sector_size=segment.sector_size,
        iv_tweak=segment.iv_tweak,
        data_offset=segment.offset,
        data_size=segment.size,
        data_to_end=metadata.segments[0].size is None,
        keyslots=_keyslots(header),
        free_keyslots=_free_keyslots(header),
        tokens=tuple(token.type for token in metadata.tokens.values()),
        header_mac=generation is not None,
        header_generation=generation,
        flags=metadata.config.flags or (),
        header_regions=_header_regions(header),
        warnings=header.warnings,
        engine=cipher.ENGINE,
    )


def summary_text(summary: Summary, *, width: int = 80) -> str:
    """The summary for a terminal of `width` columns."""
    lines = [f"{name:<{LABEL_WIDTH}}{value}" for name, value in _facts(summary)]
    lines += ["", *_layout(summary, width), "", *_keyslot_lines(summary)]
    lines += [f"warning: {_shown(text)}" for text in summary.warnings]
    return "\n".join(lines)


def human_size(size: int) -> str:
    """Bytes as people write them: `16.0 MiB`."""
    value, unit = float(size), 0
    while round(value, 1) >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def kdf_text(kdf: Kdf) -> str:
    """A KDF and its cost in words."""
    if isinstance(kdf, Argon2):
        lanes = "1 lane" if kdf.cpus == 1 else f"{kdf.cpus} lanes"
        return f"{kdf.variant}, {kdf.time} passes over {human_size(kdf.memory * 1024)}, {lanes}"
    return f"pbkdf2-{kdf.hash}, {kdf.iterations} iterations"


def _keyslots(header: Header) -> tuple[KeyslotSummary, ...]:
    bound = data_digest(header.metadata).keyslots
    named = {
        number: token
        for keyslots, token in tokens.key_tokens(header.metadata).values()
        for number in keyslots
    }
    found = []
    for number, slot in header.metadata.keyslots.items():
        key = named.get(number, tokens.KeyToken())
        found.append(
            KeyslotSummary(
                number,
                number in bound,
                slot.key_size * 8,
                kdf_text(slot.kdf),
                _PRIORITIES[slot.priority],
                slot.area.offset,
                slot.area.size,
                key.kid,
                key.key_version,
                key.salt.hex(),
                key.label,
                key.key_check_value,
            )
        )
    return tuple(found)


def _free_keyslots(header: Header) -> int:
    """How many more keyslots fit: by number, and by room for their areas."""
    size = area_size(header.segment.key_size)
    room = sum(gap // size for _, gap in free_gaps(header.binary.size, header.metadata))
    return min(MAX_OBJECTS - len(header.metadata.keyslots), room)


def _header_regions(header: Header) -> tuple[Region, ...]:
    size = header.binary.size
    start, end = keyslot_areas(size, header.metadata)
    regions = [Region("primary copy", 0, size), Region("secondary copy", size, start)]
    by_place = sorted(header.metadata.keyslots.items(), key=lambda item: item[1].area.offset)
    regions += [Region(f"keyslot {n}", slot.area.offset, slot.area.end) for n, slot in by_place]
    regions.append(Region("room for keyslots", start, end))
    return tuple(regions)


def _facts(summary: Summary) -> list[tuple[str, str]]:
    key = f"{summary.key_bits} bits"
    data = f"{human_size(summary.data_size)} from {human_size(summary.data_offset)}"
    mac = "authenticated with a MAC" if summary.header_mac else "no MAC"
    facts = [
        ("format", "LUKS2" + (", detached header" if summary.detached_header else "")),
        ("uuid", summary.uuid),
        ("label", _shown(summary.label) or "(none)"),
        ("cipher", f"{summary.cipher}, key of {key}, sectors of {summary.sector_size} bytes"),
        ("protection", _protection(summary)),
        ("engine", _ENGINES[summary.engine]),
        ("image", f"{human_size(summary.image_size)} ({summary.image_size} bytes)"),
        ("data", data + (", to the end of the image" if summary.data_to_end else "")),
        ("header", f"{mac}; sequence id {summary.sequence_id}, {_copies(summary)}"),
    ]
    if summary.iv_tweak:
        facts.append(("tweak", f"starts at {summary.iv_tweak}"))
    if summary.flags:
        facts.append(("flags", ", ".join(summary.flags)))
    if summary.tokens:
        facts.append(("tokens", ", ".join(_shown(token) for token in summary.tokens)))
    return facts


def _protection(summary: Summary) -> str:
    if summary.sealed_size is not None:
        cost = summary.image_size / summary.sealed_size - 1
        return f"sealed by a hash tree, {cost:.2%} more room; verified when its root hash is given"
    if not summary.integrity:
        return "encryption only: a changed or older sector is not noticed"
    try:
        size, block_size = summary.data_size, summary.sector_size
        inside = new_layout(size, device_size=summary.image_size, block_size=block_size).size
    except LayoutError:
        return f"{summary.integrity}, in a segment too small for it"
    cost = 1 - inside / summary.data_size
    return (
        f"{summary.integrity} over every sector, {cost:.2%} of the data's room: a changed sector is an error"
    )


def _copies(summary: Summary) -> str:
    if summary.primary_copy == summary.secondary_copy:
        return "both copies good"
    return f"primary copy {summary.primary_copy}, secondary {summary.secondary_copy}"


def _keyslot_lines(summary: Summary) -> list[str]:
    lines = []
    for slot in summary.keyslots:
        use = "" if slot.opens_data else ", opens no data"
        priority = "" if slot.priority == "normal" else f", tried {slot.priority}"
        lines.append(f"{'keyslot ' + str(slot.number):<{LABEL_WIDTH}}{slot.kdf}{priority}{use}")
        facts = {
            "key check value": slot.key_check_value, "kid": slot.kid, "version": slot.key_version,
            "salt": slot.salt, "label": slot.label,
        }  # fmt: skip
        lines += [f"{'':<{LABEL_WIDTH}}{name} {_shown(text)}" for name, text in facts.items() if text]
    lines.append(f"{'room for':<{LABEL_WIDTH}}{summary.free_keyslots} more keyslots")
    return lines


def _layout(summary: Summary, width: int) -> list[str]:
    """Two bars to scale: the whole image, and its header enlarged."""
    bar = max(width - LABEL_WIDTH, 20)
    end = summary.header_regions[-1].end
    lines = []
    data_end = summary.data_offset + summary.data_size
    if not summary.detached_header:
        whole = max(summary.image_size, data_end)
        marks = [("H", 0, end), ("D", summary.data_offset, data_end)]
        lines += _bar("image", marks, whole, bar)
    *parts, room = summary.header_regions
    marks = [("P", 0, parts[0].end), ("S", parts[1].start, parts[1].end)]
    # A keyslot is drawn as the last digit of its number.
    marks += [(part.name[-1], part.start, part.end) for part in parts[2:]]
    lines += _bar("header", marks, room.end, bar)
    legend = "H header  D data  P S header copies  0-9 keyslots  . unused"
    return [*lines, f"{'':<{LABEL_WIDTH}}{legend}"]


def _bar(name: str, marks: list[tuple[str, int, int]], total: int, width: int) -> list[str]:
    """One bar; a part narrower than a column still gets one, so that nothing is invisible."""
    cells = ["."] * width
    for sign, start, end in marks:
        first = start * width // total
        last = max(first + 1, round(end * width / total))
        # A sliver moves right past its left neighbour rather than hiding it.
        while first < width - 1 and cells[first] != "." and last - first <= 1:
            first, last = first + 1, last + 1
        for column in range(first, min(last, width)):
            if cells[column] == ".":
                cells[column] = sign
    scale = f"0{human_size(total):>{width - 1}}"
    return [f"{name:<{LABEL_WIDTH}}{''.join(cells)}", f"{'':<{LABEL_WIDTH}}{scale}"]


def _shown(text: str) -> str:
    """An untrusted text that cannot move the cursor: plain when printable ASCII, else escaped."""
    return text if text.isascii() and text.isprintable() else printable(text)
