"""Reading headers and unlocking, in both directions against real cryptsetup."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.luks2_images import (
    DATA_OFFSET,
    IMAGE_SIZE,
    KEY,
    Cryptsetup,
    key,
    mutate_json,
    reader,
    rewrite,
    seeded,
    small_header,
    small_image,
)

from encfs.errors import (
    CopiesDisagree,
    DamagedKeyslot,
    ForbiddenCipher,
    HeaderNotAuthentic,
    KdfCostTooHigh,
    MalformedHeader,
    NotLuks2,
    TruncatedImage,
    WrongKey,
)
from encfs.keys import Secret, key_check_value
from encfs.luks2.create import format_header, new_volume_key
from encfs.luks2.header import COPY_SIZES, BinaryHeader, HeaderCopy, build_copy
from encfs.luks2.kdf import KdfLimits
from encfs.luks2.token import KeyToken
from encfs.luks2.unlock import HEADER_AREA_MAX, read_header, unlock

OTHER = Secret(bytes(range(101, 133)), full_entropy=True)
PREDECESSOR = ("--cipher", "aes-xts-plain64", "--sector-size", "4096", "--pbkdf", "pbkdf2",
               "--pbkdf-force-iterations", "1000")  # fmt: skip
ARGON2ID = ("--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "4096",
            "--pbkdf-parallel", "2")  # fmt: skip


@pytest.mark.parametrize("options", [PREDECESSOR, ARGON2ID], ids=["predecessor", "argon2id"])
def test_opens_what_cryptsetup_made(cryptsetup: Cryptsetup, options: tuple[str, ...]) -> None:
    image = cryptsetup.format(*options)
    content = image.read_bytes()
    header = read_header(reader(content), len(content))
    opened = unlock(header, Secret(KEY), reader(content))
    assert opened.volume_key.reveal() == cryptsetup.volume_key(image)
    assert header.warnings == ()
    assert not opened.authenticated
    assert opened.segment.offset + opened.segment.size == len(content)


@pytest.mark.parametrize("pbkdf", ["pbkdf2", "argon2id"])
def test_cryptsetup_opens_what_we_made(cryptsetup: Cryptsetup, tmp_path: Path, pbkdf: str) -> None:
    volume_key = new_volume_key()
    made = format_header(
        image_size=IMAGE_SIZE,
        data_offset=DATA_OFFSET,
        passphrase=key(),
        volume_key=volume_key,
        pbkdf=pbkdf,
        argon2_memory_kib=4096,
        label="a label",
        key_token=KeyToken(kid="https://vault.example/keys/k", key_version="1"),
    )
    image = tmp_path / "image"
    image.write_bytes(made.data.ljust(IMAGE_SIZE, b"\0"))
    assert cryptsetup.opens(image)
    assert not cryptsetup.opens(image, OTHER.reveal())
    assert cryptsetup.volume_key(image) == volume_key.reveal()
    assert cryptsetup.metadata(image)["tokens"]["0"]["kid"] == "https://vault.example/keys/k"
    assert "a label" in cryptsetup.run("luksDump", image).stdout


def test_opens_what_we_made() -> None:
    image = small_image()
    header = read_header(reader(image), len(image))
    opened = unlock(header, key(), reader(image), require_authenticated=True)
    assert opened.volume_key == new_volume_key(random=seeded("volume key"))
    assert opened.authenticated
    assert (header.segment.offset, header.segment.size) == (DATA_OFFSET, IMAGE_SIZE - DATA_OFFSET)
    assert header.copy_used == "primary"


def test_every_byte_of_the_header_is_read_at_most_once() -> None:
    image = small_image()
    seen: list[range] = []

    def read(offset: int, length: int) -> bytes:
        for other in seen:
            assert offset >= other.stop or offset + length <= other.start, "a byte was read twice"
        seen.append(range(offset, offset + length))
        return reader(image)(offset, length)

    header = read_header(read, len(image))
    unlock(header, key(), read)
    assert sum(map(len, seen)) == 2 * 16384 + 256000


def test_wrong_key_names_the_key_of_the_image_and_the_one_offered() -> None:
    image = small_image(key_token=KeyToken(kid="https://vault.example/keys/k/1"))
    header = read_header(reader(image), len(image))
    with pytest.raises(WrongKey) as caught:
        unlock(header, OTHER, reader(image))
    assert str(caught.value) == (
        f"keyslot 0: this image was made with key {key_check_value(key())}, https://vault.example/keys/k/1,"
        f" you offered {key_check_value(OTHER)}"
    )
    assert caught.value.part == "key"
    with pytest.raises(WrongKey, match="you offered a passphrase without fingerprint"):
        unlock(header, Secret(b"typed"), reader(image))


def test_wrong_key_without_token_says_what_to_check(cryptsetup: Cryptsetup) -> None:
    content = cryptsetup.format().read_bytes()
    header = read_header(reader(content), len(content))
    with pytest.raises(WrongKey, match="keyslot 0: no passphrase matched the digest") as caught:
        unlock(header, Secret(b"wrong"), reader(content))
    assert "salt and label" in caught.value.hint


def test_right_key_and_damaged_area_is_not_called_a_wrong_key() -> None:
    image = small_image()
    image[32768 + 1000] ^= 1
    header = read_header(reader(image), len(image))
    with pytest.raises(DamagedKeyslot, match="the key is the right one") as caught:
        unlock(header, key(), reader(image))
    assert caught.value.part == "header"


@pytest.mark.parametrize("damaged", [0, 16384], ids=["primary", "secondary"])
@pytest.mark.parametrize("at", [0, 20, 448, 5000], ids=["magic", "label", "checksum", "json"])
def test_one_damaged_copy_is_replaced_by_the_other_with_a_warning(damaged: int, at: int) -> None:
    image = small_image()
    image[damaged + at] ^= 0x40
    header = read_header(reader(image), len(image))
    assert header.copy_used == ("secondary" if damaged == 0 else "primary")
    (warning,) = header.warnings
    assert ("primary" if damaged == 0 else "secondary") in warning
    assert unlock(header, key(), reader(image)).volume_key == new_volume_key(random=seeded("volume key"))


def test_both_copies_damaged() -> None:
    image = small_image()
    image[5000] ^= 1
    image[16384 + 5000] ^= 1
    with pytest.raises(MalformedHeader, match=r"both header copies are damaged: .*checksum") as caught:
        read_header(reader(image), len(image))
    assert "luksHeaderRestore" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\0" * 100, os.urandom(70_000), bytes(1 << 20), b"LUKS"])
def test_not_luks2(content: bytes) -> None:
    with pytest.raises((NotLuks2, TruncatedImage)) as caught:
        read_header(reader(content), len(content))
    assert isinstance(caught.value, TruncatedImage) == (content == b"LUKS")


def test_luks1_is_named(cryptsetup: Cryptsetup) -> None:
    image = cryptsetup.folder / "one"
    image.write_bytes(bytes(4 << 20))
    cryptsetup.run("luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file",
                   cryptsetup.key_file, image)  # fmt: skip
    content = image.read_bytes()
    with pytest.raises(NotLuks2, match="version 1") as caught:
        read_header(reader(content), len(content))
    assert "convert" in caught.value.hint


@pytest.mark.parametrize("length", [6, 4096, 10_000, 16384, 20_000, 32768, 200_000, DATA_OFFSET])
def test_truncated_image(length: int) -> None:
    image = small_image()[:length]
    with pytest.raises(TruncatedImage) as caught:
        read_header(reader(image), len(image))
    assert "cut off" in caught.value.hint


def test_newer_copy_wins_with_a_warning(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    for newer in (0, 1):
        image = small_image()
        rewrite(image, binary=lambda b: replace(b, seqid=b.seqid + 1, label="newer"), copies=(newer,))
        header = read_header(reader(image), len(image))
        assert header.binary.label == "newer"
        assert header.copy_used == ("primary", "secondary")[newer]
        assert "one update behind" in header.warnings[0]
        path = tmp_path / "image"
        path.write_bytes(image)
        assert "newer" in cryptsetup.run("luksDump", path).stdout


def test_copies_that_disagree_are_refused() -> None:
    image = small_image()
    rewrite(image, binary=lambda b: replace(b, label="x"), copies=(1,))
    with pytest.raises(CopiesDisagree, match="sequence id 1 but differ"):
        read_header(reader(image), len(image))
    image = small_image()
    rewrite(image, binary=lambda b: replace(b, seqid=b.seqid + 2), copies=(0,))
    with pytest.raises(CopiesDisagree, match="sequence ids 3 and 1"):
        read_header(reader(image), len(image))


def test_kdf_cost_is_capped_and_the_limit_is_named() -> None:
    image = small_image()
    header = read_header(reader(image), len(image))
    with pytest.raises(KdfCostTooHigh, match="1000 pbkdf2 iterations, wanted at most 999") as caught:
        unlock(header, key(), reader(image), limits=KdfLimits(pbkdf2_iterations=999))
    assert "pbkdf2_iterations=1000" in caught.value.hint
    assert unlock(header, key(), reader(image), limits=KdfLimits.parse("pbkdf2_iterations=1000"))


def test_volume_key_with_equal_halves_is_refused() -> None:
    with pytest.raises(ForbiddenCipher, match="halves are equal"):
        small_header(volume_key=Secret(bytes(range(32)) * 2))


def test_changed_header_is_not_authentic() -> None:
    image = small_image()
    mutate_json(image, lambda j: j["segments"]["0"].update(iv_tweak="8"))
    header = read_header(reader(image), len(image))
    with pytest.raises(HeaderNotAuthentic, match="does not match"):
        unlock(header, key(), reader(image))


def test_missing_mac_is_refused_only_where_required() -> None:
    image = small_image(authenticated=False)
    header = read_header(reader(image), len(image))
    assert not unlock(header, key(), reader(image)).authenticated
    with pytest.raises(HeaderNotAuthentic, match="no MAC"):
        unlock(header, key(), reader(image), require_authenticated=True)


def test_memory_does_not_grow_with_the_image() -> None:
    """A sparse image of 1 TiB: what is read, and what is kept, is the header and one keyslot area."""
    image, size = small_image(), 1 << 40
    tracemalloc.start()
    try:
        header = read_header(reader(image), size)
        unlock(header, key(), reader(image))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert header.segment.size == size - DATA_OFFSET
    assert peak < 4 << 20


def test_nine_planted_copies_do_not_cost_more_than_the_bound() -> None:
    """Without a primary copy, every place of a secondary one is looked at, within HEADER_AREA_MAX."""
    image = bytearray(HEADER_AREA_MAX)
    for offset in COPY_SIZES:
        binary = BinaryHeader(offset, offset, 1, "", "", "12345678-1234-1234-1234-123456789abc", bytes(64))
        if offset * 2 <= len(image):
            image[offset : offset + 4096] = build_copy(HeaderCopy(binary, b"{}"))[:4096]
    total = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal total
        total += length
        return reader(image)(offset, length)

    with pytest.raises(MalformedHeader):
        read_header(read, len(image))
    assert total <= 2 * HEADER_AREA_MAX
