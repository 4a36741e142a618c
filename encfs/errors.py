"""Every error of the package, with the exit code and the hint a user needs.

    EncfsError                      1
    |-- UsageError                  2  the command line or a settings file is wrong
    |   |-- HostNotAllowed         18  a token would have gone to a host that is not on the list
    |   |-- LastKeyslot             2  removing it would lock everybody out
    |   `-- NoFreeKeyslot           2  the header has no room for another keyslot
    |-- ImageError                  3  the image is not what it should be
    |   |-- NotLuks2               10  no LUKS2 header: another format, a LUKS1 header, or plain data
    |   |-- TruncatedImage         11  the image ends before its header or segment does
    |   |-- MalformedHeader        12  a header that is damaged or contradicts itself
    |   |   |-- CopiesDisagree     12  the two header copies tell different stories
    |   |   |-- MetadataBomb       12  metadata made to exhaust its reader
    |   |   |-- MalformedMetadata  12  a field is missing, of the wrong type, or refers to nothing
    |   |   |-- LayoutError        12  areas or segments overlap, or leave their place
    |   |   `-- DamagedKeyslot     12  the key is right, but its keyslot is destroyed
    |   |-- UnsupportedHeader      13  a header outside the profile this driver accepts
    |   |   |-- ForbiddenCipher    13  a null, weak or unknown cipher
    |   |   |-- UnsupportedFeature 13  a requirement, flag, type or field we do not know, by name
    |   |   `-- KdfCostTooHigh     13  unlocking costs more time or memory than allowed
    |   |-- ProtectionTooWeak      19  protected less than the settings require; nothing was opened
    |   |-- HeaderNotAuthentic     16  the header's MAC is wrong, or missing where one is required
    |   |-- ImageMissing           14  no such image, or it cannot be opened
    |   |-- ImageBusy              15  another process, or another machine's lease, holds the image
    |   `-- UnsuitableBlob         17  a blob of another type, or of a size that is no volume's
    |-- WrongKey                    4  no keyslot opens with the key offered
    |-- KeyUnavailable              5  the key could not be had
    |   |-- KeyFileError           33  the key file is missing or not a key
    |   |-- KeyUnusable             5  a key that cannot become a passphrase
    |   |-- ReleaseRefused         30  the vault refused to release the key
    |   |-- AttestationRefused     31  the attestation authority refused the evidence
    |   `-- ReportUnavailable      32  no SNP report: no hardware, and no software processor asked for
    |-- MountError                  6  mount point, FUSE, loop device or file system
    |   |-- MountPointBusy         20  something is mounted there already, or files in it are open
    |   |-- MountPointMissing      21  it does not exist or is not a directory
    |   |-- FuseUnavailable        22  no `/dev/fuse`
    |   |-- LoopUnavailable        23  no loop device
    |   |-- FileSystemError        24  the kernel refused the file system in the volume
    |   `-- NotMounted             25  nothing of ours is mounted there
    |-- StoreError                  7  the image's store failed, or data is not stored yet
    |   |-- Tampered               43  data that is not what a hash tree or an authentication tag says
    |   |-- StoreUnavailable        7  no answer, or a busy store: the same request may succeed later
    |   |-- AccessDenied           40  the store does not accept who we are, or what we may do
    |   |-- RolledBack             44  older than what was anchored of it, or another volume
    |   |-- ImageChanged           42  the image was replaced while it was read
    |   `-- ReadOnlyDevice          7  a write reached a read-only device (EROFS)
    |       `-- LeaseLost          41  the blob's lease is gone: read-only from here on (EROFS)
    |-- Interrupted               130  a signal ended the command before its work was done
    |-- DriverFailed                8  the driver process died, or was cut off after its deadline
    `-- BadRequest                  1  a block request is unaligned or out of range: a defect in the caller

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
    NOT_LUKS2 = 10
    TRUNCATED_IMAGE = 11
    MALFORMED_HEADER = 12
    UNSUPPORTED_HEADER = 13
    IMAGE_MISSING = 14
    IMAGE_BUSY = 15
    HEADER_NOT_AUTHENTIC = 16
    UNSUITABLE_BLOB = 17
    HOST_NOT_ALLOWED = 18
    PROTECTION_TOO_WEAK = 19
    MOUNT_POINT_BUSY = 20
    MOUNT_POINT_MISSING = 21
    NO_FUSE = 22
    NO_LOOP = 23
    FILE_SYSTEM = 24
    NOT_MOUNTED = 25
    RELEASE_REFUSED = 30
    ATTESTATION_REFUSED = 31
    NO_REPORT = 32
    KEY_FILE = 33
    ACCESS_DENIED = 40
    LEASE_LOST = 41
    IMAGE_CHANGED = 42
    TAMPERED = 43
    ROLLED_BACK = 44
    INTERRUPTED = 130


class EncfsError(Exception):
    """Base of all errors this package raises on purpose.

    Args:
        message: one sentence, lower case, no full stop, no secret.
        hint: what the user can do next; empty when nothing useful is known.
    """

    exit_code: ExitCode = ExitCode.INTERNAL
    part: str = ""  # which of "key", "header", "profile", "data" is at fault when a volume does not open

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
    part = "key"


class KeyUnavailable(EncfsError):
    """The key could not be had."""

    exit_code = ExitCode.KEY_UNAVAILABLE
    part = "key"


class MountError(EncfsError):
    """Mount point, FUSE, loop device or file system."""

    exit_code = ExitCode.MOUNT


class StoreError(EncfsError):
    """The store failed, or data is not stored yet."""

    exit_code = ExitCode.STORE


class DriverFailed(EncfsError):
    """The driver process died or was cut off."""

    exit_code = ExitCode.DRIVER


class ImageMissing(ImageError):
    """There is no such image, or it cannot be opened."""

    exit_code = ExitCode.IMAGE_MISSING


class ImageBusy(ImageError):
    """Another process holds the image open."""

    exit_code = ExitCode.IMAGE_BUSY


class ReadOnlyDevice(StoreError):
    """A write reached a read-only device."""


class Tampered(StoreError):
    """Data is not what a hash tree or an authentication tag says; it never reaches a reader."""

    exit_code = ExitCode.TAMPERED
    part = "data"


class RolledBack(StoreError):
    """The volume is older than what was anchored of it, or another one."""

    exit_code = ExitCode.ROLLED_BACK
    part = "data"


class StoreUnavailable(StoreError):
    """No answer from the store, or that it is busy: the same request may succeed later.

    Args:
        retry_after: seconds that the store asks to wait; None when it says nothing.
    """

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class AccessDenied(StoreError):
    """The store does not accept who we are, or what we may do."""

    exit_code = ExitCode.ACCESS_DENIED


class ImageChanged(StoreError):
    """The image was replaced while it was read; nothing was mixed."""

    exit_code = ExitCode.IMAGE_CHANGED


class LeaseLost(ReadOnlyDevice):
    """The blob's lease is gone: another may write now, so we no longer do."""

    exit_code = ExitCode.LEASE_LOST


class UnsuitableBlob(ImageError):
    """A blob of another type than wanted, or of a size that is no volume's."""

    exit_code = ExitCode.UNSUITABLE_BLOB


class BadRequest(EncfsError):
    """A block request is not aligned or not inside the device."""


class MountPointBusy(MountError):
    """The mount point has something mounted, or the mount is still in use."""

    exit_code = ExitCode.MOUNT_POINT_BUSY


class MountPointMissing(MountError):
    """The mount point does not exist or is not an empty directory."""

    exit_code = ExitCode.MOUNT_POINT_MISSING


class FuseUnavailable(MountError):
    """No FUSE here: `/dev/fuse` is missing or may not be opened."""

    exit_code = ExitCode.NO_FUSE


class LoopUnavailable(MountError):
    """No loop device could be had."""

    exit_code = ExitCode.NO_LOOP


class FileSystemError(MountError):
    """The kernel refused to mount the file system in the volume."""

    exit_code = ExitCode.FILE_SYSTEM


class NotMounted(MountError):
    """Nothing of ours is mounted there."""

    exit_code = ExitCode.NOT_MOUNTED


class NotLuks2(ImageError):
    """There is no LUKS2 header."""

    exit_code = ExitCode.NOT_LUKS2
    part = "header"


class TruncatedImage(ImageError):
    """The image ends before its header or segment does."""

    exit_code = ExitCode.TRUNCATED_IMAGE
    part = "header"


class MalformedHeader(ImageError):
    """The header is damaged or contradicts itself."""

    exit_code = ExitCode.MALFORMED_HEADER
    part = "header"


class UnsupportedHeader(ImageError):
    """The header is outside the profile this driver accepts."""

    exit_code = ExitCode.UNSUPPORTED_HEADER
    part = "profile"


class KeyFileError(KeyUnavailable):
    """The key file is missing or not a key."""

    exit_code = ExitCode.KEY_FILE


class ReleaseRefused(KeyUnavailable):
    """The vault refused to release the key."""

    exit_code = ExitCode.RELEASE_REFUSED


class AttestationRefused(KeyUnavailable):
    """The attestation authority refused the evidence."""

    exit_code = ExitCode.ATTESTATION_REFUSED


class ReportUnavailable(KeyUnavailable):
    """No SNP report could be had."""

    exit_code = ExitCode.NO_REPORT


class CopiesDisagree(MalformedHeader):
    """The two header copies are both valid but tell different stories."""


class MetadataBomb(MalformedHeader):
    """The metadata is made to exhaust its reader."""


class MalformedMetadata(MalformedHeader):
    """A field of the metadata is missing, of the wrong type, or refers to nothing."""


class LayoutError(MalformedHeader):
    """Areas or segments overlap, or leave the place the format gives them."""


class DamagedKeyslot(MalformedHeader):
    """The key is the right one, but its keyslot does not yield the volume key."""


class ForbiddenCipher(UnsupportedHeader):
    """A null, weak or unknown cipher, hash or key size."""


class UnsupportedFeature(UnsupportedHeader):
    """A requirement, flag, type or field we do not know; the message names it."""


class KdfCostTooHigh(UnsupportedHeader):
    """Unlocking costs more time or memory than allowed."""


class HeaderNotAuthentic(ImageError):
    """The header's MAC is wrong, or missing where one is required."""

    exit_code = ExitCode.HEADER_NOT_AUTHENTIC
    part = "header"


class ProtectionTooWeak(ImageError):
    """The image is protected less than the settings require."""

    exit_code = ExitCode.PROTECTION_TOO_WEAK
    part = "profile"


class KeyUnusable(KeyUnavailable):
    """The key cannot become a passphrase."""


class HostNotAllowed(UsageError):
    """A token would have gone to a host that is not on the allow-list; nothing was sent."""

    exit_code = ExitCode.HOST_NOT_ALLOWED


class LastKeyslot(UsageError):
    """Removing this keyslot would lock everybody out."""


class NoFreeKeyslot(UsageError):
    """The header has no room for another keyslot."""


class Interrupted(EncfsError):
    """A signal ended the command before its work was done; nothing is left behind."""

    exit_code = ExitCode.INTERRUPTED


def first_error(exc: BaseException) -> EncfsError | None:
    """The first of our errors in an exception or a group of them."""
    if isinstance(exc, EncfsError):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        return next((found for part in exc.exceptions if (found := first_error(part))), None)
    return None
