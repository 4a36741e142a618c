"""Changes to the keys of an image on disk: each write durable before the next one.

The order of the writes, which makes every moment safe, is `luks2.keyslots_edit`'s.

Kind: composition
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from encfs.block.file import FileDevice
from encfs.keys import Secret
from encfs.luks2 import keyslots_edit
from encfs.luks2.token import KeyToken
from encfs.luks2.unlock import Unlocked
from encfs.opening import Image, UnlockOptions, naming, open_image, warn


def add_key(
    path: Path, passphrase: Secret, new: Secret, options: UnlockOptions, *, kid: str, keyslot: int | None
) -> int:
    """Let `new`, secret, open the image too; the number of its keyslot.

    Raises:
        WrongKey: `passphrase` opens no keyslot.
        ImageError, UsageError: no room, or the number is taken.
    """
    with _editing(path, passphrase, options) as (image, unlocked):
        edit = keyslots_edit.add_keyslot(
            image.header, unlocked, new, keyslot=keyslot, key_token=KeyToken(kid=kid)
        )
        _store_all(image, edit)
        assert edit.keyslot is not None
        return edit.keyslot


def remove_key(path: Path, passphrase: Secret, keyslot: int, options: UnlockOptions, *, force: bool) -> None:
    """Destroy a keyslot; `passphrase` should be of one that stays.

    Raises:
        LastKeyslot: it is the one just opened, and `force` is not set.
    """
    with _editing(path, passphrase, options) as (image, unlocked):
        _store_all(image, keyslots_edit.remove_keyslot(image.header, unlocked, keyslot, force=force))


def rotate_key(path: Path, passphrase: Secret, new: Secret, options: UnlockOptions, *, kid: str) -> None:
    """Replace `passphrase` by `new`, both secret; run again after a crash it goes on."""
    with _editing(path, passphrase, options) as (image, unlocked):
        keyslots_edit.rotate(
            image.header,
            unlocked,
            new,
            read=image.header_source.read_exactly,
            store=lambda write: image.header_source.write_durably(write.offset, write.data),
            key_token=KeyToken(kid=kid),
            limits=options.limits,
        )


def sign_header(path: Path, passphrase: Secret, options: UnlockOptions) -> None:
    """Put a MAC on the header as it is now."""
    with _editing(path, passphrase, replace(options, accept_changed_header=True)) as (image, unlocked):
        _store_all(image, keyslots_edit.authenticate_header(image.header, unlocked))


@contextmanager
def _editing(
    path: Path, passphrase: Secret, options: UnlockOptions
) -> Iterator[tuple[Image[FileDevice], Unlocked]]:
    image = open_image(path, options, read_only=False, direct=False)
    try:
        warn(image)
        unlocked = image.unlock(passphrase, options)
        with naming(path):
            yield image, unlocked
    finally:
        image.close_header()
        image.source.close()


def _store_all(image: Image[FileDevice], edit: keyslots_edit.Edit) -> None:
    for write in edit.writes:
        image.header_source.write_durably(write.offset, write.data)
