"""What `encfs info` shows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fakes.luks2_images import (
    DATA_OFFSET,
    IMAGE_SIZE,
    Cryptsetup,
    key,
    mutate_json,
    reader,
    rewrite,
    small_image,
)

from encfs import cipher
from encfs.keys import key_check_value
from encfs.luks2.describe import describe, human_size, summarise, to_json
from encfs.luks2.token import KeyToken
from encfs.luks2.unlock import Header, read_header

TOKEN = KeyToken(kid="https://vault.example/keys/k", key_version="7", salt=b"\x01\x02", label="my label")


def header_of(image: bytearray) -> Header:
    return read_header(reader(image), len(image))


def bars(text: str) -> dict[str, str]:
    """The two bars by name, without their name."""
    lines = [line for line in text.splitlines() if line.startswith(("image   ", "header  "))]
    return {line.split()[0]: line[14:] for line in lines if set(line[14:]) <= set("HDPS.0123456789")}


def test_text_shows_what_a_user_wants_to_know() -> None:
    text = describe(header_of(small_image(label="backup", key_token=TOKEN)), IMAGE_SIZE)
    for wanted in (
        "LUKS2", "backup", "aes-xts-plain64, key of 512 bits, sectors of 4096 bytes", "2.0 MiB",
        "pbkdf2-sha256, 1000 iterations", f"key check value {key_check_value(key())}",
        "kid https://vault.example/keys/k", "version 7", "salt 0102", "label my label",
        "authenticated with a MAC", "both copies good", "compiled, one call a request",
    ):  # fmt: skip
        assert wanted in text
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize(("engine", "words"), [("compiled", "one call a request"), ("python", "slow")])
def test_says_which_engine_encrypts_here(monkeypatch: pytest.MonkeyPatch, engine: str, words: str) -> None:
    monkeypatch.setattr(cipher, "ENGINE", engine)
    image = small_image()
    assert words in describe(header_of(image), len(image))
    assert json.loads(to_json(header_of(image), len(image)))["engine"] == engine


def test_layout_is_to_scale() -> None:
    drawn = bars(describe(header_of(small_image()), IMAGE_SIZE, width=114))
    assert drawn["image"] == "H" * 50 + "D" * 50  # 1 MiB of header, 1 MiB of data
    keyslot = drawn["header"].count("0")
    assert abs(keyslot - 100 * 258048 / DATA_OFFSET) <= 1
    assert drawn["header"].startswith("P")
    assert "S" in drawn["header"]


def test_a_part_too_small_for_a_column_still_shows() -> None:
    header = header_of(small_image())
    terabyte = 1 << 40
    segment = replace(header.segment, size=terabyte - DATA_OFFSET)
    drawn = bars(describe(replace(header, segment=segment), terabyte))["image"]
    assert drawn == "H" + "D" * (len(drawn) - 1)


def test_json_carries_the_same_and_no_salts_or_digests() -> None:
    image = small_image(key_token=TOKEN)
    value = json.loads(to_json(header_of(image), len(image)))
    assert value["keyslots"][0]["kid"] == "https://vault.example/keys/k"
    assert value["keyslots"][0]["key_check_value"] == key_check_value(key())
    assert (value["data_offset"], value["data_size"]) == (DATA_OFFSET, IMAGE_SIZE - DATA_OFFSET)
    assert value["free_keyslots"] == 2
    assert value["header_mac"] is True
    assert "digest" not in json.dumps(value)


def test_damaged_copy_and_odd_settings_are_shown() -> None:
    image = small_image(authenticated=False)
    mutate_json(image, lambda j: (j["config"].update(flags=["allow-discards"]),
                                  j["segments"]["0"].update(iv_tweak="8"),
                                  j["keyslots"]["0"].update(priority=0)))  # fmt: skip
    image[5000] ^= 1
    text = describe(header_of(image), len(image))
    for wanted in ("no MAC", "primary copy damaged", "allow-discards", "tweak         starts at 8",
                   "tried only when named", "warning: the primary header copy is damaged"):  # fmt: skip
        assert wanted in text


def test_untrusted_texts_cannot_move_the_cursor() -> None:
    image = small_image()
    rewrite(image, binary=lambda b: replace(b, label="\x1b[2J\x07‮evil"))
    text = describe(header_of(image), len(image))
    assert all(line.isprintable() for line in text.splitlines())
    assert "evil" in text


def test_unbound_keyslot_and_argon2(cryptsetup: Cryptsetup) -> None:
    path = cryptsetup.format("--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "1024",
                             "--pbkdf-parallel", "1")  # fmt: skip
    cryptsetup.run("luksAddKey", "--unbound", "--key-size", "256", "--key-slot", "3", "--pbkdf", "pbkdf2",
                   "--pbkdf-force-iterations", "1000", "--key-file", cryptsetup.key_file, path,
                   cryptsetup.key_file)  # fmt: skip
    image = bytearray(path.read_bytes())
    summary = summarise(header_of(image), len(image))
    assert [(slot.number, slot.opens_data, slot.key_bits) for slot in summary.keyslots] == [
        (0, True, 512),
        (3, False, 256),
    ]
    text = describe(header_of(image), len(image))
    assert "argon2id, 4 passes over 1.0 MiB, 1 lane" in text
    assert "opens no data" in text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1 << 40, "1.0 TiB"),
        ((1 << 40) - 1, "1.0 TiB"),
    ],
)
def test_human_size(size: int, text: str) -> None:
    assert human_size(size) == text


def test_detached_header_is_drawn_alone() -> None:
    image = small_image(detached=True)[:DATA_OFFSET]
    header = read_header(reader(image), len(image), data_size=IMAGE_SIZE)
    text = describe(header, IMAGE_SIZE)
    assert "LUKS2, detached header" in text
    assert list(bars(text)) == ["header"]
    assert json.loads(to_json(header, IMAGE_SIZE))["detached_header"] is True
