"""The frame between supervisor and driver."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from encfs.block.cachesettings import sized
from encfs.errors import EncfsError, UsageError
from encfs.keys import Secret
from encfs.volume import BlobOrder, DriverOrder, SegmentGeometry, build_frame, read_frame

ORDER = DriverOrder(3, 4, "/run/x/device", "data.img", SegmentGeometry(16 << 20, 48 << 20, 4096, 0), True)
BLOB = BlobOrder(
    *("https://a.blob.core.windows.net/c/d", True, "client", "lease", '"0x8D"', 36.0, sized()),
    sas="sig=c2VjcmV0",
    environment={"IDENTITY_HEADER": "c2VjcmV0"},
)
KEY = Secret(bytes(range(64)))


def exact(data: bytes) -> Callable[[int], bytes]:
    stream = io.BytesIO(data)

    def read(length: int) -> bytes:
        got = stream.read(length)
        if len(got) != length:
            raise EncfsError("short")
        return got

    return read


def test_round_trip() -> None:
    order, key = read_frame(exact(build_frame(ORDER, KEY)))
    assert order == ORDER
    assert key == KEY
    remote = replace(ORDER, image_fd=None, blob=BLOB)
    assert read_frame(exact(build_frame(remote, KEY))) == (remote, KEY)
    assert "c2VjcmV0" not in repr(remote)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f[:2],
        lambda f: f[:-1],
        lambda f: b"\xff\xff\xff\xff" + f[4:],
        lambda f: b"\0\0\0\0" + f[4:],
        lambda f: f[:4] + f[4:].replace(b'"name"', b'"nome"'),
        lambda f: f[:4] + f[4:].replace(b'"offset"', b'"offsed"'),
    ],
)
def test_damaged_frames_are_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises((EncfsError, UsageError)):
        read_frame(exact(change(build_frame(ORDER, KEY))))
