"""What of pyfuse3's log reaches the user."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from encfs.fuse import is_worth_saying

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
