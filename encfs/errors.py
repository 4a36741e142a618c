"""Every error of the package, with the exit code and the hint a user needs.

    EncfsError
    |-- UsageError              2  the command line or a settings file is wrong
    |-- ImageError              3  the image is not what it should be (see the classes below it)
    |-- WrongKey                4  no keyslot opens with the key offered
    |-- KeyUnavailable          5  the key could not be had: release refused, key file missing or malformed
    |-- MountError              6  mount point, FUSE, loop device or file system
    |-- StoreError              7  the image's store failed, or data is not stored yet
    `-- DriverFailed            8  the driver process died, or was cut off after its deadline

Rules: a message names the object, the value seen, then the value wanted; `hint` says what to do next.
No error text ever holds a secret. Only `cli` maps errors to exit codes, only `fuse` maps them to errno.

Kind: pure
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the `encfs` command; listed in `encfs --help`."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    IMAGE = 3
    WRONG_KEY = 4
    KEY_UNAVAILABLE = 5
    MOUNT = 6
    STORE = 7
    DRIVER = 8
    INTERRUPTED = 130


class EncfsError(Exception):
    """Base of all errors this package raises on purpose.

    Args:
        message: one sentence, lower case, no full stop, no secret.
        hint: what the user can do next; empty when nothing useful is known.
    """

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EncfsError):
    """The command line or a settings file is wrong."""

    exit_code = ExitCode.USAGE


class ImageError(EncfsError):
    """The image is not what it should be."""

    exit_code = ExitCode.IMAGE


class WrongKey(EncfsError):
    """The key offered opens no keyslot."""

    exit_code = ExitCode.WRONG_KEY


class KeyUnavailable(EncfsError):
    """The key could not be had."""

    exit_code = ExitCode.KEY_UNAVAILABLE


class MountError(EncfsError):
    """Mount point, FUSE, loop device or file system."""

    exit_code = ExitCode.MOUNT


class StoreError(EncfsError):
    """The store failed, or data is not stored yet."""

    exit_code = ExitCode.STORE


class DriverFailed(EncfsError):
    """The driver process died or was cut off."""

    exit_code = ExitCode.DRIVER
