"""The interop matrix: every variant in both directions against real cryptsetup.

Opening is judged by the volume key itself, which `luksDump --dump-volume-key` shows. The data behind it is
judged by a real kernel elsewhere (tests/kernel).
"""

from __future__ import annotations

import json
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
    small_image,
)

from encfs.errors import ForbiddenCipher, LayoutError, UnsupportedFeature, WrongKey
from encfs.keys import Secret
from encfs.luks2.create import format_header, new_volume_key
from encfs.luks2.header import COPY_SIZES
from encfs.luks2.unlock import Header, Unlocked, read_header, unlock

PBKDF2 = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
ARGON2 = ("--pbkdf-force-iterations", "4", "--pbkdf-memory", "1024", "--pbkdf-parallel", "2")
KDFS = {
    "pbkdf2-sha1": (*PBKDF2, "--hash", "sha1"),
    "pbkdf2-sha256": (*PBKDF2, "--hash", "sha256"),
    "pbkdf2-sha512": (*PBKDF2, "--hash", "sha512"),
    "argon2i": ("--pbkdf", "argon2i", *ARGON2),
    "argon2id": ("--pbkdf", "argon2id", *ARGON2),
}
SECTORS = (512, 1024, 2048, 4096)
KEY_BITS = (256, 512)


def opened(image: Path, passphrase: Secret | None = None) -> tuple[Header, Unlocked]:
    content = image.read_bytes()
    header = read_header(reader(content), len(content))
    return header, unlock(header, passphrase or key(), reader(content))


@pytest.mark.parametrize("kdf", KDFS)
@pytest.mark.parametrize("bits", KEY_BITS)
@pytest.mark.parametrize("sector", SECTORS)
def test_theirs_opens_here(cryptsetup: Cryptsetup, sector: int, bits: int, kdf: str) -> None:
    image = cryptsetup.format("--sector-size", str(sector), "--key-size", str(bits), *KDFS[kdf])
    header, unlocked = opened(image)
    assert unlocked.volume_key.reveal() == cryptsetup.volume_key(image)
    assert header.segment.sector_size == sector
    assert header.segment.key_size == bits // 8
    with pytest.raises(WrongKey):
        opened(image, Secret(b"x" * 32))


@pytest.mark.parametrize("kdf", KDFS)
@pytest.mark.parametrize("bits", KEY_BITS)
@pytest.mark.parametrize("sector", SECTORS)
def test_ours_opens_there(cryptsetup: Cryptsetup, tmp_path: Path, sector: int, bits: int, kdf: str) -> None:
    volume_key = new_volume_key(bits // 8)
    pbkdf, _, hash_name = kdf.partition("-")
    made = format_header(
        image_size=IMAGE_SIZE,
        data_offset=DATA_OFFSET,
        passphrase=key(),
        volume_key=volume_key,
        sector_size=sector,
        pbkdf=pbkdf,
        hash_name=hash_name or "sha256",
        argon2_memory_kib=1024,
        argon2_cpus=2,
    )
    image = tmp_path / "ours"
    image.write_bytes(made.data.ljust(IMAGE_SIZE, b"\0"))
    assert cryptsetup.volume_key(image) == volume_key.reveal()
    assert not cryptsetup.opens(image, b"x" * 32)
    theirs = cryptsetup.metadata(image)
    assert theirs["segments"]["0"]["sector_size"] == sector
    assert theirs["keyslots"]["0"]["kdf"]["type"] == pbkdf
    assert image.read_bytes()[: 2 * COPY_SIZES[0]] == made.data[: 2 * COPY_SIZES[0]], (
        "cryptsetup found something to repair"
    )


def test_several_keyslots_and_priorities(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    image = cryptsetup.format()
    keys = {2: b"second", 5: b"fifth", 9: b"ninth"}
    for number, content in keys.items():
        new = tmp_path / f"key{number}"
        new.write_bytes(content)
        cryptsetup.run("luksAddKey", *PBKDF2, "--key-slot", str(number), "--key-file",
                       cryptsetup.key_file, image, new)  # fmt: skip
    cryptsetup.run("config", "--priority", "prefer", "--key-slot", "9", image)
    cryptsetup.run("config", "--priority", "ignore", "--key-slot", "5", image)
    volume_key = cryptsetup.volume_key(image)
    assert opened(image)[1].keyslot == 0
    assert opened(image, Secret(b"second"))[1].volume_key.reveal() == volume_key
    with pytest.raises(WrongKey, match=r"keyslot 0, 2, 9: no passphrase"):
        opened(image, Secret(b"fifth"))
    content = image.read_bytes()
    header = read_header(reader(content), len(content))
    assert unlock(header, Secret(b"fifth"), reader(content), keyslot=5).volume_key.reveal() == volume_key
    with pytest.raises(WrongKey, match="keyslot 4: does not exist"):
        unlock(header, Secret(b"fifth"), reader(content), keyslot=4)
    read_areas: list[int] = []

    def read(offset: int, length: int) -> bytes:
        read_areas.append(offset)
        return reader(content)(offset, length)

    assert unlock(header, Secret(b"ninth"), read).keyslot == 9
    assert read_areas == [header.metadata.keyslots[9].area.offset], "the preferred keyslot was not first"


def test_their_tokens_are_kept_and_ours_are_ignored(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(small_image(authenticated=False))
    token = tmp_path / "token.json"
    value = {"type": "somebody-elses", "keyslots": ["0"], "data": {"deep": [1, 2, {"x": "y"}]}}
    token.write_text(json.dumps(value))
    cryptsetup.run("token", "import", "--json-file", token, "--token-id", "5", image)
    header, unlocked = opened(image)
    assert dict(header.metadata.tokens[5].fields) == {"data": value["data"]}
    assert unlocked.keyslot == 0
    assert cryptsetup.opens(image)


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
def test_every_header_size(cryptsetup: Cryptsetup, size: int) -> None:
    image = cryptsetup.format(
        "--luks2-metadata-size", f"{size}k", "--luks2-keyslots-size", "1m", size=12 << 20
    )
    header, unlocked = opened(image)
    assert header.binary.size == size * 1024
    assert unlocked.volume_key.reveal() == cryptsetup.volume_key(image)
    content = bytearray(image.read_bytes())
    content[0:4096] = bytes(4096)
    found = read_header(reader(content), len(content))
    assert (found.copy_used, found.metadata) == ("secondary", header.metadata)


def test_detached_header(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    data, header_file = tmp_path / "data", tmp_path / "header"
    data.write_bytes(bytes(1 << 20))
    cryptsetup.run("luksFormat", "--type", "luks2", *PBKDF2, "--sector-size", "4096", "--key-file",
                   cryptsetup.key_file, "--header", header_file, data)  # fmt: skip
    content = header_file.read_bytes()
    header = read_header(reader(content), len(content), data_size=1 << 20)
    assert header.detached
    assert (header.segment.offset, header.segment.size) == (0, 1 << 20)
    assert unlock(header, key(), reader(content)).volume_key.reveal() == cryptsetup.volume_key(header_file)
    with pytest.raises(LayoutError) as caught:
        read_header(reader(content), len(content))
    assert "--header" in caught.value.hint


def test_our_detached_header_opens_there(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    made = format_header(
        image_size=1 << 20, data_offset=DATA_OFFSET, detached=True, passphrase=key(),
        volume_key=new_volume_key(),
    )  # fmt: skip
    data, header_file = tmp_path / "data", tmp_path / "header"
    data.write_bytes(bytes(1 << 20))
    header_file.write_bytes(made.data)
    assert made.data_offset == 0
    assert cryptsetup.opens(data, KEY, "--header", header_file)
    assert not cryptsetup.opens(data, b"x" * 32, "--header", header_file)
    header = read_header(reader(made.data), len(made.data), data_size=1 << 20)
    assert unlock(header, key(), reader(made.data)).authenticated


def test_image_converted_from_luks1(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    image = tmp_path / "one"
    image.write_bytes(bytes(8 << 20))
    cryptsetup.run("luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file",
                   cryptsetup.key_file, image)  # fmt: skip
    cryptsetup.run("convert", "--type", "luks2", image)
    assert opened(image)[1].volume_key.reveal() == cryptsetup.volume_key(image)


def test_unbound_keyslot_does_not_disturb_and_does_not_open(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    image = cryptsetup.format()
    other = tmp_path / "other"
    other.write_bytes(b"opens an unbound key")
    cryptsetup.run("luksAddKey", "--unbound", "--key-size", "128", "--key-slot", "1", *PBKDF2, "--key-file",
                   other, image, other, check=False)  # fmt: skip
    assert "1" in cryptsetup.metadata(image)["keyslots"]
    assert opened(image)[1].keyslot == 0
    with pytest.raises(WrongKey):
        opened(image, Secret(b"opens an unbound key"))


def test_other_ciphers_of_theirs_are_refused_by_name(cryptsetup: Cryptsetup) -> None:
    image = cryptsetup.format("--cipher", "aes-cbc-essiv:sha256", "--key-size", "256")
    with pytest.raises(ForbiddenCipher, match="aes-cbc-essiv:sha256"):
        opened(image)


def test_interrupted_reencryption_is_refused_by_name(cryptsetup: Cryptsetup) -> None:
    image = cryptsetup.format(size=40 << 20)
    cryptsetup.run("reencrypt", "--init-only", "--key-file", cryptsetup.key_file, *PBKDF2, image)
    with pytest.raises(UnsupportedFeature, match="online-reencrypt") as caught:
        opened(image)
    assert "--resume-only" in caught.value.hint


def test_flags_for_dm_crypt_are_accepted_and_kept(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    content = small_image(authenticated=False)
    mutate_json(content, lambda j: j["config"].update(flags=["allow-discards", "no-read-workqueue"]))
    image = tmp_path / "image"
    image.write_bytes(content)
    assert "allow-discards no-read-workqueue" in cryptsetup.run("luksDump", image).stdout
    assert opened(image)[0].metadata.config.flags == ("allow-discards", "no-read-workqueue")
