"""What of pyfuse3's log reaches the user, and what an error of the device becomes."""

from __future__ import annotations

import errno
import logging
import os

import pyfuse3
import pytest

from encfs.block.buffers import BufferPool
from encfs.block.memory import MemoryDevice
from encfs.errors import Tampered
from encfs.fuse import MAX_REQUEST, DataFile, is_worth_saying
from encfs.health import Pulse

REPLY = "fuse_release(): fuse_reply_* failed with %s"


@pytest.mark.parametrize(
    ("message", "arguments", "said"),
    [
        (REPLY, (os.strerror(errno.ENOENT),), False),
        (REPLY, (os.strerror(errno.EIO),), True),
        ("something else about %s", (os.strerror(errno.ENOENT),), True),
        ("no arguments", (), True),
    ],
)
def test_replies_that_nobody_waits_for(message: str, arguments: tuple[str, ...], said: bool) -> None:
    record = logging.LogRecord("pyfuse3", logging.ERROR, "", 0, message, arguments, None)
    assert is_worth_saying(record) is said


async def test_changed_data_is_an_error_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """The reader gets EIO; whoever looks at the pulse sees how often."""

    class Changed(MemoryDevice):
        async def read_into(self, offset: int, buffer: memoryview) -> None:
            raise Tampered("image: block 3 does not match its tag")

    pulse = Pulse.create()
    file = DataFile(Changed(bytearray(8192)), BufferPool(1, MAX_REQUEST), pulse, cached=False)
    for count in (1, 2):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await file.read(pyfuse3.FileHandleT(1), 0, 4096)
        assert (caught.value.errno, pulse.read().tampered) == (errno.EIO, count)
    pulse.close()
    assert "block 3 does not match its tag" in caplog.text
    caplog.clear()
