"""New headers: reproducible, within our own profile, and refusing what would not be."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.luks2_images import (
    DATA_OFFSET,
    IMAGE_SIZE,
    key,
    reader,
    seeded,
    small_header,
)

from encfs.errors import EncfsError, ForbiddenCipher, LayoutError, TruncatedImage, UsageError
from encfs.keys import Secret, key_check_value
from encfs.luks2.create import SeededRandom, format_header, new_volume_key
from encfs.luks2.kdf import Argon2, Pbkdf2
from encfs.luks2.token import KeyToken, key_tokens
from encfs.luks2.unlock import read_header, unlock


def test_same_inputs_give_the_same_bytes() -> None:
    assert small_header().data == small_header().data
    assert small_header(random=seeded("another")).data != small_header().data


def test_without_seed_nothing_repeats() -> None:
    values: dict[str, Any] = {"image_size": IMAGE_SIZE, "data_offset": DATA_OFFSET, "passphrase": key()}
    first, second = (format_header(**values, volume_key=new_volume_key()) for _ in range(2))
    assert first.uuid != second.uuid
    assert first.metadata.keyslots[0].kdf.salt != second.metadata.keyslots[0].kdf.salt
    assert first.metadata.digests[0].salt != second.metadata.digests[0].salt
    assert first.writes[0][1] != second.writes[0][1]


def test_given_uuid_and_label_are_used() -> None:
    made = small_header(uuid="12345678-1234-4234-8234-123456789abc", label="my volume")
    header = read_header(reader(made.data.ljust(IMAGE_SIZE, b"\0")), IMAGE_SIZE)
    assert (header.binary.uuid, header.binary.label) == ("12345678-1234-4234-8234-123456789abc", "my volume")
    assert header.metadata == made.metadata
    assert header.segment == made.segment


def test_copies_have_different_salts() -> None:
    data = small_header().data
    assert data[104:168] != data[16384 + 104 : 16384 + 168]


def test_fingerprint_is_recorded_for_a_random_key_only() -> None:
    ((_, token),) = key_tokens(small_header(key_token=KeyToken(kid="k")).metadata).values()
    assert token == KeyToken(kid="k", key_check_value=key_check_value(key()))
    typed = small_header(passphrase=Secret(b"typed"), iterations=1000)
    assert key_tokens(typed.metadata) == {}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"sector_size": 8192}, UsageError),
        ({"sector_size": 520}, UsageError),
        ({"data_offset": 100_000}, UsageError),
        ({"data_offset": 65536}, UsageError),
        ({"volume_key": Secret(bytes(range(48)))}, UsageError),
        ({"volume_key": Secret(bytes(64))}, ForbiddenCipher),
        ({"pbkdf": "bcrypt"}, UsageError),
        ({"image_size": DATA_OFFSET}, TruncatedImage),
        ({"image_size": IMAGE_SIZE + 512}, LayoutError),
        ({"label": "x" * 48}, UsageError),
        ({"label": "a\0b"}, UsageError),
        ({"uuid": "no"}, UsageError),
        ({"key_token": KeyToken(kid="\n")}, EncfsError),
        ({"key_token": KeyToken(kid="x" * 2000)}, EncfsError),
        ({"tokens": [{"type": "x", "keyslots": ["7"]}]}, EncfsError),
        ({"tokens": [{"type": "x", "keyslots": [], "fill": "x" * 12_000}]}, EncfsError),
        ({"tokens": [{"keyslots": []}]}, EncfsError),
    ],
)
def test_what_we_could_not_open_ourselves_is_not_made(
    changes: dict[str, Any], error: type[EncfsError]
) -> None:
    with pytest.raises(error):
        small_header(**changes)


def test_small_sectors_allow_small_images() -> None:
    made = small_header(sector_size=512, image_size=DATA_OFFSET + 512)
    assert made.segment.size == 512


def test_kdf_choice() -> None:
    assert isinstance(small_header(hash_name="sha512").metadata.keyslots[0].kdf, Pbkdf2)
    kdf = small_header(pbkdf="argon2i", argon2_memory_kib=64).metadata.keyslots[0].kdf
    assert isinstance(kdf, Argon2)
    assert (kdf.variant, kdf.memory) == ("argon2i", 64)


def test_seeded_random() -> None:
    seed = Secret(bytes(range(32)))
    first, again = SeededRandom(seed, "a"), SeededRandom(seed, "a")
    assert [first(16), first(16)] == [again(16), again(16)]
    assert first(16) != again(17)[:16]
    assert SeededRandom(seed, "b")(16) != SeededRandom(seed, "a")(16)
    with pytest.raises(UsageError):
        SeededRandom(Secret(b"short"), "a")


def test_volume_key_of_a_broken_generator_is_not_used() -> None:
    answers = [bytes(64), bytes(64), bytes(range(64))]
    assert new_volume_key(random=lambda size: answers.pop(0)).reveal() == bytes(range(64))


def test_a_volume_without_mac_opens_too() -> None:
    data = small_header(authenticated=False).data.ljust(IMAGE_SIZE, b"\0")
    header = read_header(reader(data), IMAGE_SIZE)
    assert not unlock(header, key(), reader(data)).authenticated
