"""Adding, removing and rotating keyslots, cut off at every write and in the middle of every write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.luks2_images import (
    IMAGE_SIZE,
    KEY,
    Cryptsetup,
    key,
    reader,
    rewrite,
    seeded,
    small_image,
)

from encfs.errors import (
    EncfsError,
    HeaderNotAuthentic,
    LastKeyslot,
    NoFreeKeyslot,
    UsageError,
    WrongKey,
)
from encfs.keys import Secret, key_check_value
from encfs.luks2.create import new_volume_key
from encfs.luks2.kdf import Argon2, new_kdf
from encfs.luks2.keyslots_edit import (
    Write,
    add_keyslot,
    authenticate_header,
    remove_keyslot,
    rotate,
)
from encfs.luks2.token import KeyToken, key_tokens
from encfs.luks2.unlock import Header, Unlocked, read_header, unlock

NEW = Secret(bytes(range(101, 133)), full_entropy=True)
TYPED = Secret(b"a typed passphrase")
VOLUME_KEY = new_volume_key(random=seeded("volume key"))


def opened(image: bytearray, passphrase: Secret | None = None) -> tuple[Header, Unlocked]:
    header = read_header(reader(image), len(image))
    return header, unlock(header, passphrase or key(), reader(image))


def opens(image: bytearray, passphrase: Secret) -> bool:
    try:
        return opened(image, passphrase)[1].volume_key == VOLUME_KEY
    except EncfsError:
        return False


def store_all(image: bytearray, writes: tuple[Write, ...]) -> None:
    for write in writes:
        image[write.offset : write.offset + len(write.data)] = write.data


class Cut(Exception):
    """The process was killed here."""


class CutStore:
    """Stores writes into an image until a budget of bytes is used up, then dies in the middle."""

    def __init__(self, image: bytearray, budget: int) -> None:
        self.image, self.left = image, budget

    def __call__(self, write: Write) -> None:
        part = write.data[: self.left]
        self.image[write.offset : write.offset + len(part)] = part
        self.left -= len(part)
        if len(part) < len(write.data):
            raise Cut


def rotate_on(image: bytearray, store: Callable[[Write], None], purpose: str = "rotation") -> None:
    header, unlocked = opened(image)
    rotate(
        header,
        unlocked,
        NEW,
        read=reader(image),
        store=store,
        key_token=KeyToken(kid="https://vault.example/keys/new/2"),
        random=seeded(purpose),
    )


def write_sizes(run: Callable[[bytearray, Callable[[Write], None]], None], image: bytearray) -> list[int]:
    """Run to the end on a copy; the size of each write."""
    copy, sizes = bytearray(image), []

    def store(write: Write) -> None:
        sizes.append(len(write.data))
        store_all(copy, (write,))

    run(copy, store)
    return sizes


def cut_points(sizes: list[int], *, all_of_them: bool = True) -> list[int]:
    """Bytes stored when it dies: before each write and half way; also one byte in, and one byte short."""
    points, done = [], 0
    for size in sizes:
        points += [done, done + size // 2]
        points += [done + 1, done + 4096, done + size - 1] if all_of_them else []
        done += size
    return sorted({*points, done})


def damaged(image: bytearray, copy: int) -> bytearray:
    image[copy * 16384 + 5000] ^= 1
    return image


def older(image: bytearray, copy: int) -> bytearray:
    rewrite(image, binary=lambda b: replace(b, seqid=b.seqid + 1), copies=(1 - copy,))
    return image


STARTS: dict[str, Callable[[bytearray], bytearray]] = {
    "both copies good": lambda image: image,
    "primary damaged": lambda image: damaged(image, 0),
    "secondary damaged": lambda image: damaged(image, 1),
    "primary older": lambda image: older(image, 0),
    "secondary older": lambda image: older(image, 1),
}


@pytest.mark.parametrize("start", STARTS)
def test_rotation_cut_anywhere_leaves_an_image_that_opens_and_can_be_finished(start: str) -> None:
    image = STARTS[start](small_image())
    sizes = write_sizes(rotate_on, image)
    assert len(sizes) == 6  # new area, two copies; old area, two copies
    for point in cut_points(sizes, all_of_them=start == "both copies good"):
        cut = bytearray(image)
        store = CutStore(cut, point)
        if point < sum(sizes):
            with pytest.raises(Cut):
                rotate_on(cut, store)
        else:
            rotate_on(cut, store)
        old, new = opens(cut, key()), opens(cut, NEW)
        assert old or new, f"cut after {point} bytes: no key opens"
        # Whoever repeats the command gets to the end, with whichever key still opens.
        if old:
            rotate_on(cut, lambda w, cut=cut: store_all(cut, (w,)), "again")  # type: ignore[misc]
        elif point < sum(sizes):
            header, unlocked = opened(cut, NEW)
            if 0 in header.metadata.keyslots:
                store_all(cut, remove_keyslot(header, unlocked, 0).writes)
        assert opens(cut, NEW)
        assert not opens(cut, key())
        assert list(opened(cut, NEW)[0].metadata.keyslots) == [1]


def test_rotation_cut_anywhere_opens_with_cryptsetup(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    image = small_image()
    sizes = write_sizes(rotate_on, image)
    path = tmp_path / "cut"
    for point in cut_points(sizes):
        cut = bytearray(image)
        if point < sum(sizes):
            with pytest.raises(Cut):
                rotate_on(cut, CutStore(cut, point))
        else:
            rotate_on(cut, CutStore(cut, point))
        path.write_bytes(cut)  # anew each time, because cryptsetup repairs what it opens
        old, new = cryptsetup.opens(path, KEY), cryptsetup.opens(path, NEW.reveal())
        assert old or new, f"cut after {point} bytes: cryptsetup opens with no key"
        assert (old, new) == (opens(cut, key()), opens(cut, NEW))


def add_on(image: bytearray, store: Callable[[Write], None]) -> None:
    header, unlocked = opened(image)
    for write in add_keyslot(header, unlocked, NEW, random=seeded("add")).writes:
        store(write)


def remove_on(image: bytearray, store: Callable[[Write], None]) -> None:
    header, unlocked = opened(image)
    for write in remove_keyslot(header, unlocked, 1, random=seeded("remove")).writes:
        store(write)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("edit", [add_on, remove_on])
def test_the_key_that_stays_opens_wherever_an_edit_is_cut(
    edit: Callable[[bytearray, Callable[[Write], None]], None], start: str
) -> None:
    image = small_image()
    if edit is remove_on:
        add_on(image, lambda write: store_all(image, (write,)))
    STARTS[start](image)
    sizes = write_sizes(edit, image)
    assert len(sizes) == 3
    for point in cut_points(sizes)[:-1]:
        cut = bytearray(image)
        with pytest.raises(Cut):
            edit(cut, CutStore(cut, point))
        assert opens(cut, key()), f"cut after {point} bytes"
        edit_again = add_on if edit is add_on and not opens(cut, NEW) else None
        if edit_again:
            edit_again(cut, lambda write, cut=cut: store_all(cut, (write,)))  # type: ignore[misc]
            assert opens(cut, NEW)


def test_added_key_opens_here_and_with_cryptsetup(cryptsetup: Cryptsetup, tmp_path: Path) -> None:
    image = small_image()
    header, unlocked = opened(image)
    kdf = new_kdf("argon2id", passphrase=TYPED, random=seeded("kdf"), memory_kib=1024)
    edit = add_keyslot(header, unlocked, TYPED, keyslot=7, kdf=kdf, priority=2)
    store_all(image, edit.writes)
    assert edit.keyslot == 7
    after, by_typed = opened(image, TYPED)
    assert (by_typed.keyslot, by_typed.authenticated) == (7, True)
    assert after == edit.header
    path = tmp_path / "image"
    path.write_bytes(image)
    assert cryptsetup.opens(path, b"a typed passphrase")
    assert cryptsetup.opens(path)
    assert cryptsetup.metadata(path)["keyslots"]["7"]["priority"] == 2


def test_edits_of_an_image_made_by_cryptsetup(cryptsetup: Cryptsetup) -> None:
    path = cryptsetup.format("--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory",
                             "1024", "--pbkdf-parallel", "1")  # fmt: skip
    image = bytearray(path.read_bytes())
    header, unlocked = opened(image)
    store_all(image, add_keyslot(header, unlocked, NEW).writes)
    path.write_bytes(image)
    assert cryptsetup.opens(path, NEW.reveal())
    assert cryptsetup.opens(path)
    header, unlocked = opened(image, NEW)
    store_all(image, remove_keyslot(header, unlocked, 0).writes)
    path.write_bytes(image)
    assert cryptsetup.opens(path, NEW.reveal())
    assert not cryptsetup.opens(path)
    # and cryptsetup goes on editing what we edited
    more = path.parent / "more"
    more.write_bytes(b"more")
    cryptsetup.run("luksAddKey", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
                   "--key-file", path.parent / "offered", path, more, check=False)  # fmt: skip
    cryptsetup.key_file.write_bytes(NEW.reveal())
    cryptsetup.run("luksAddKey", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
                   "--key-file", cryptsetup.key_file, path, more)  # fmt: skip
    content = bytearray(path.read_bytes())
    header = read_header(reader(content), len(content))
    assert unlock(header, Secret(b"more"), reader(content)).volume_key == unlocked.volume_key


def test_removed_key_material_is_overwritten() -> None:
    image = small_image()
    add_on(image, lambda write: store_all(image, (write,)))
    header, unlocked = opened(image)
    area = header.metadata.keyslots[1].area
    before = bytes(image[area.offset : area.end])
    store_all(image, remove_keyslot(header, unlocked, 1).writes)
    after = bytes(image[area.offset : area.end])
    same = sum(a == b for a, b in zip(before, after, strict=True))
    assert same < len(before) // 64  # random agrees in 1 of 256 bytes


def test_the_last_keyslot_stays_unless_forced() -> None:
    image = small_image()
    header, unlocked = opened(image)
    with pytest.raises(LastKeyslot) as caught:
        remove_keyslot(header, unlocked, 0)
    assert "lost for ever" in caught.value.hint
    store_all(image, remove_keyslot(header, unlocked, 0, force=True).writes)
    header = read_header(reader(image), len(image))
    with pytest.raises(EncfsError, match="no keyslot that opens the data"):
        unlock(header, key(), reader(image))


def test_the_key_that_removes_must_be_one_that_stays() -> None:
    image = small_image()
    add_on(image, lambda write: store_all(image, (write,)))
    header, unlocked = opened(image)
    with pytest.raises(LastKeyslot) as caught:
        remove_keyslot(header, unlocked, 0)
    assert "the key of keyslot 1" in caught.value.hint
    assert remove_keyslot(header, unlocked, 0, force=True).keyslot == 0
    with pytest.raises(UsageError, match="keyslot 5: does not exist"):
        remove_keyslot(header, unlocked, 5)


def test_rotation_to_the_same_key_is_refused() -> None:
    image = small_image()
    header, unlocked = opened(image)
    with pytest.raises(UsageError, match="the new key is the old one"):
        rotate(header, unlocked, key(), read=reader(image), store=lambda write: None)


def test_rotation_keeps_the_old_key_when_the_store_lies() -> None:
    image = small_image()
    header, unlocked = opened(image)
    lost: list[Write] = []
    with pytest.raises((WrongKey, EncfsError)):
        rotate(header, unlocked, NEW, read=reader(image), store=lost.append)
    assert opens(image, key())
    assert len(lost) == 3, "the old keyslot was touched although the new key was never proved"


def test_no_room_for_another_area() -> None:
    image = small_image()  # 1 MiB of header: three areas of 252 KiB
    for number in (1, 2):
        header, unlocked = opened(image)
        store_all(image, add_keyslot(header, unlocked, Secret(b"%d" % number * 16), kdf=cheap()).writes)
    header, unlocked = opened(image)
    with pytest.raises(NoFreeKeyslot, match="no room for a keyslot area"):
        add_keyslot(header, unlocked, NEW)


def cheap() -> Argon2:
    kdf = new_kdf("argon2id", passphrase=TYPED, random=seeded("kdf"), memory_kib=32)
    assert isinstance(kdf, Argon2)
    return kdf


def test_all_numbers_or_the_json_area_used_up() -> None:
    image = small_image(image_size=20 << 20, data_offset=16 << 20)
    header, unlocked = opened(image)

    def add_many() -> None:
        following = header
        for _ in range(40):
            edit = add_keyslot(following, unlocked, TYPED, kdf=cheap())
            store_all(image, edit.writes)
            following = edit.header

    with pytest.raises(NoFreeKeyslot, match=r"all 32 keyslots|JSON area"):
        add_many()
    assert opens(image, key())


@pytest.mark.parametrize("number", [-1, 32, 0])
def test_a_number_that_is_taken_or_out_of_range(number: int) -> None:
    header, unlocked = opened(small_image())
    with pytest.raises(UsageError):
        add_keyslot(header, unlocked, NEW, keyslot=number)


def test_tokens_follow_their_keyslots() -> None:
    image = small_image(key_token=KeyToken(kid="old"), tokens=[{"type": "other", "keyslots": ["0"], "x": 1}])
    rotate_on(image, lambda write: store_all(image, (write,)))
    header, unlocked = opened(image, NEW)
    ((keyslots, token),) = key_tokens(header.metadata).values()
    assert keyslots == (1,)
    assert (token.kid, token.key_check_value) == ("https://vault.example/keys/new/2", key_check_value(NEW))
    (other,) = (t for t in header.metadata.tokens.values() if t.type == "other")
    assert (other.keyslots, dict(other.fields)) == ((), {"x": 1})
    assert unlocked.authenticated


def test_header_without_mac_stays_without_and_can_get_one() -> None:
    image = small_image(authenticated=False)
    add_on(image, lambda write: store_all(image, (write,)))
    header, unlocked = opened(image)
    assert not unlocked.authenticated
    store_all(image, authenticate_header(header, unlocked).writes)
    assert opened(image)[1].authenticated


def test_mac_broken_by_cryptsetup_is_reported_and_can_be_renewed(
    cryptsetup: Cryptsetup, tmp_path: Path
) -> None:
    path, more = tmp_path / "image", tmp_path / "more"
    path.write_bytes(small_image())
    more.write_bytes(b"more")
    cryptsetup.run("luksAddKey", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
                   "--key-file", cryptsetup.key_file, path, more)  # fmt: skip
    image = bytearray(path.read_bytes())
    with pytest.raises(HeaderNotAuthentic) as caught:
        opened(image)
    assert "luksAddKey" in caught.value.hint
    header = read_header(reader(image), len(image))
    unlocked = unlock(header, key(), reader(image), accept_changed_header=True)
    assert not unlocked.authenticated
    store_all(image, authenticate_header(header, unlocked).writes)
    assert opened(image)[1].authenticated
    assert opened(image, Secret(b"more"))[1].authenticated


def test_detached_header_is_edited_where_it_lies() -> None:
    header_image = small_image(detached=True, image_size=IMAGE_SIZE)[: 1024 * 1024]
    read = reader(header_image)
    header = read_header(read, len(header_image), data_size=IMAGE_SIZE)
    unlocked = unlock(header, key(), read)
    edit = add_keyslot(header, unlocked, NEW)
    store_all(header_image, edit.writes)
    again = read_header(read, len(header_image), data_size=IMAGE_SIZE)
    assert again == edit.header
    assert unlock(again, NEW, read).segment == header.segment
