"""The JSON area: build and parse are inverses, and nothing but typed errors comes out of a hostile one."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

from fakes.luks2_images import IMAGE_SIZE, fix_checksum, json_of, key, reader, rewrite, small_image
from hypothesis import given, settings
from hypothesis import strategies as st

from encfs.errors import EncfsError, ImageError
from encfs.luks2.kdf import Argon2, KdfLimits, Pbkdf2
from encfs.luks2.layout import Segment
from encfs.luks2.metadata import (
    CIPHER,
    DIGEST_SIZES,
    KNOWN_FLAGS,
    Area,
    Config,
    CryptSegment,
    Digest,
    Keyslot,
    Metadata,
    Token,
    build_metadata,
    parse_metadata,
)
from encfs.luks2.unlock import Header, read_header, unlock

NUMBERS = st.integers(0, 31)
UINT32 = st.integers(1, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
SALTS = st.binary(min_size=32, max_size=32)
HASHES = st.sampled_from(["sha1", "sha256", "sha512"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
KDFS = st.one_of(
    st.builds(Pbkdf2, HASHES, UINT32, SALTS),
    st.builds(
        Argon2, st.sampled_from(["argon2i", "argon2id"]), UINT32, st.integers(2048, 2**32 - 1),
        st.integers(1, 255), SALTS,
    ),
)  # fmt: skip
AREAS = st.builds(Area, UINT64, UINT64, st.just(CIPHER), st.sampled_from([32, 64]))
KEYSLOTS = st.builds(Keyslot, st.integers(1, 512), AREAS, KDFS, HASHES, st.sampled_from([None, 0, 1, 2]))
NAMES = st.lists(NUMBERS, unique=True, max_size=4).map(tuple)


@st.composite
def digests(draw: st.DrawFn) -> Digest:
    name = draw(HASHES)
    size = draw(st.sampled_from([20, DIGEST_SIZES[name]]))
    return Digest(
        draw(NAMES),
        draw(NAMES),
        name,
        draw(UINT32),
        draw(SALTS),
        draw(st.binary(min_size=size, max_size=size)),
    )


TOKEN_MEMBERS = TEXTS.filter(lambda name: name not in ("type", "keyslots"))
TOKEN_FIELDS = st.dictionaries(TOKEN_MEMBERS, TEXTS | UINT32 | st.none(), max_size=3)
TOKENS = st.builds(Token, TEXTS, NAMES, TOKEN_FIELDS)
SEGMENTS = st.builds(
    CryptSegment,
    UINT64,
    st.none() | UINT64,
    UINT64,
    st.just(CIPHER),
    st.sampled_from([512, 1024, 2048, 4096]),
)
FLAGS = st.none() | st.lists(st.sampled_from(KNOWN_FLAGS), unique=True).map(tuple)


def few(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[int, Any]]:
    return st.dictionaries(NUMBERS, values, max_size=3)


METADATA = st.builds(
    Metadata,
    few(KEYSLOTS),
    few(TOKENS),
    few(SEGMENTS),
    few(digests()),
    st.builds(Config, UINT64, UINT64, FLAGS),
)


@given(METADATA)
def test_parse_is_the_inverse_of_build(metadata: Metadata) -> None:
    assert parse_metadata(build_metadata(metadata)) == metadata


@given(METADATA)
def test_the_order_of_members_means_nothing(metadata: Metadata) -> None:
    text = json.dumps(json.loads(build_metadata(metadata)), sort_keys=True, indent=1)
    assert parse_metadata(text.encode()) == metadata


JSON = st.recursive(
    st.none() | st.booleans() | UINT64 | st.integers(-5, 5) | TEXTS
    | st.sampled_from(["", "0", "dynamic", "18446744073709551615", "32768", "cipher_null-ecb", "luks2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
BASE = bytes(small_image(authenticated=False))
REAL = json_of(BASE)
CHEAP = KdfLimits(pbkdf2_iterations=1000, argon2_memory_kib=1024, argon2_work_kib=4096, keyslots=2)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [at] if at else []
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in steps:
        found += paths(inner, (*at, name))
    return found


def put(value: Any, path: tuple[Any, ...], new: Any, action: str) -> None:
    for name in path[:-1]:
        value = value[name]
    if action == "delete":
        del value[path[-1]]
    elif action == "replace" or not isinstance(value, dict):
        value[path[-1]] = new
    else:
        value[new if isinstance(new, str) else "x"] = copy.deepcopy(value[path[-1]])


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Real metadata with one to three places replaced, deleted or doubled."""
    value = copy.deepcopy(REAL)
    for _ in range(draw(st.integers(1, 3))):
        places = paths(value)
        if places:
            put(
                value,
                draw(st.sampled_from(places)),
                draw(JSON),
                draw(st.sampled_from(["replace", "delete", "double"])),
            )
    return value


def try_to_open(image: bytearray) -> None:
    """Whatever the image is, it opens within the profile or ends in one of our errors."""
    try:
        header = read_header(reader(image), len(image))
        check_profile(header, len(image))
        opened = unlock(header, key(), reader(image), limits=CHEAP)
    except EncfsError:
        return
    assert len(opened.volume_key) == header.segment.key_size


def check_profile(header: Header, size: int) -> None:
    """What no accepted header may lack, said once more and independently of the parser."""
    segment: Segment = header.segment
    areas = sorted((s.area.offset, s.area.end) for s in header.metadata.keyslots.values())
    assert segment.cipher == "aes-xts-plain64"
    assert 0 < segment.size <= size - segment.offset
    assert segment.offset % segment.sector_size == segment.size % segment.sector_size == 0
    assert all(start >= 2 * header.binary.size for start, _ in areas)
    assert all(end <= segment.offset for _, end in areas)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(areas))


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_mutated_metadata_opens_or_ends_in_a_typed_error(value: dict[str, Any]) -> None:
    image = bytearray(BASE)
    text = json.dumps(value).encode()
    if len(text) < 12288 and text.startswith(b"{"):
        rewrite(image, text=text)
    try_to_open(image)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2 * 16384 - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
)
def test_overwritten_header_bytes_open_or_end_in_a_typed_error(
    writes: list[tuple[int, int]], fixed: bool
) -> None:
    image = bytearray(BASE)
    for at, value in writes:
        image[at] = value
    if fixed:
        for offset in (0, 16384):
            fix_checksum(image, offset, 16384)
    try_to_open(image)


@given(st.integers(0, IMAGE_SIZE))
def test_cut_anywhere(length: int) -> None:
    image = BASE[:length]
    try:
        header = read_header(reader(image), len(image))
    except ImageError:
        return
    check_profile(header, length)


@given(st.binary(max_size=400))
def test_any_text_is_metadata_or_a_typed_error(data: bytes) -> None:
    try:
        parse_metadata(b"{" + data)
    except ImageError:
        return
