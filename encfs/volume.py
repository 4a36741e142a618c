"""What a driver process needs to know of its volume, and the frame in which it is told.

The frame goes over an inherited pipe: 4 bytes length of the JSON part, the JSON part, 4 bytes length of the
key, the key, little-endian. All of it is secret: the JSON part may hold a signature for a blob. The pipe is
the only way these take; they are never in argv, environment, a file or a log.

Kind: pure
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from encfs.block.cachesettings import CacheSettings
from encfs.errors import UsageError
from encfs.keys import Secret

_LENGTH = struct.Struct("<I")
_MAX_JSON = 64 << 10
_MAX_KEY = 1 << 10


@dataclass(frozen=True, slots=True)
class SegmentGeometry:
    """A LUKS2 crypt segment, resolved: bytes, `iv_tweak` in 512-byte units; `integrity`: it has tags."""

    offset: int
    size: int
    sector_size: int
    iv_tweak: int
    integrity: bool = False


@dataclass(frozen=True, slots=True)
class BlobOrder:
    """A blob to serve from.

    Attributes:
        url: without signature.
        bearer: ask for tokens of this machine's identity.
        client_id: of the managed identity, where there are several.
        lease_id: under which the supervisor acquired the lease; empty for reading only.
        etag: of the blob whose header was read.
        deadline: seconds for one request with all its repetitions.
        cache: of the volume.
        sas: signature, secret.
        environment: settings of identity, allow-list and trust; may be secret.
    """

    url: str
    bearer: bool
    client_id: str
    lease_id: str
    etag: str
    deadline: float
    cache: CacheSettings
    sas: str = field(repr=False)
    environment: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class VerityOrder:
    """A hash tree to verify the image with: root hash and salt in hex, size of the image in bytes."""

    root: str
    salt: str
    size: int


@dataclass(frozen=True, slots=True)
class DriverOrder:
    """One volume to serve, from an open file or from a blob. Descriptors are numbers in the driver process.

    `for_tools`: served to programs of e2fsprogs for one command of ours. The kernel may keep plaintext in its
    page cache (see `fuse`), and the driver ends when the command does, even when that is killed.
    """

    image_fd: int | None
    pulse_fd: int
    directory: str
    name: str
    segment: SegmentGeometry
    read_only: bool
    for_tools: bool = False
    blob: BlobOrder | None = None
    verity: VerityOrder | None = None


def build_frame(order: DriverOrder, volume_key: Secret) -> bytes:
    """The frame: secret, because the key is in it."""
    head = json.dumps(asdict(order)).encode()
    key: bytes = volume_key.reveal()
    return _LENGTH.pack(len(head)) + head + _LENGTH.pack(len(key)) + key


def read_frame(read_exactly: Callable[[int], bytes]) -> tuple[DriverOrder, Secret]:
    """Parse a frame from a reader that returns exactly the bytes asked for.

    Raises:
        UsageError: a length is out of bounds or a member is missing: not started by a supervisor.
    """
    head = json.loads(read_exactly(_length(read_exactly(4), _MAX_JSON)))
    key = Secret(read_exactly(_length(read_exactly(4), _MAX_KEY)))
    try:
        segment = SegmentGeometry(**head.pop("segment"))
        blob = head.pop("blob")
        if blob is not None:
            blob = BlobOrder(cache=CacheSettings(**blob.pop("cache")), **blob)
        verity = head.pop("verity")
        verity = None if verity is None else VerityOrder(**verity)
        return DriverOrder(segment=segment, blob=blob, verity=verity, **head), key
    except (KeyError, TypeError, AttributeError) as exc:
        raise UsageError("driver order: members missing or unknown") from exc


def _length(data: bytes, limit: int) -> int:
    (length,) = _LENGTH.unpack(data)
    if not 0 < length <= limit:
        raise UsageError(f"driver order: length {length}, wanted 1 to {limit}")
    return int(length)
