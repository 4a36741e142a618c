"""Settings of an agent as values; `encfs.settingsparse` reads them.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass, field

from encfs.block.bloburl import BlobUrl
from encfs.block.cachesettings import CacheSettings, sized
from encfs.config import KeyConfig
from encfs.keys import Secret
from encfs.protection import Protection


@dataclass(frozen=True, slots=True)
class CertCache:
    """A certificate service to ask first, in the predecessor's words; empty for the usual ones."""

    endpoint_type: str = ""
    endpoint: str = ""
    tee_type: str = ""
    api_version: str = ""
    client_id: str = ""


@dataclass(frozen=True, slots=True)
class VolumeSettings:
    """One volume.

    Attributes:
        index: its place in the settings, which names its folder.
        image: path of a local image, or a blob; the blob's signature is secret.
        mount_point: absolute path where applications look for it.
        read_write: False refuses writes.
        private: send this machine's identity to the blob store.
        key: what to have released; None with a raw key.
        bearer_token: the vault's token, secret, in place of this machine's identity; empty for none.
        raw_key: the key itself, secret; None when it is released.
        header: path of a detached header.
        take_over: end the lease that another writer has.
        require_authenticated_header: refuse a header without MAC.
        cache: of a blob.
        root_hash: of the image's hash tree, 32 bytes; every block is verified, and it is read-only.
        require: the least protection against a store that changes the image; None for none.
        anchor: `vault`, or the absolute path of a file; empty for none.
        accept_rollback: mount an image older than its anchor, once.
        client_id: of the managed identity that asks vault and store, where there are several.
    """

    index: int
    image: str | BlobUrl
    mount_point: str
    read_write: bool = False
    private: bool = False
    key: KeyConfig | None = None
    bearer_token: str = field(default="", repr=False)
    raw_key: Secret | None = None
    header: str | None = None
    take_over: bool = False
    require_authenticated_header: bool = False
    cache: CacheSettings = field(default_factory=sized)
    root_hash: bytes | None = None
    require: Protection | None = None
    anchor: str = ""
    accept_rollback: bool = False
    client_id: str = ""

    @property
    def name(self) -> str:
        """The image, without signature."""
        return str(self.image)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What an agent is started with; `warnings` are for the log."""

    volumes: tuple[VolumeSettings, ...]
    client_id: str = ""
    certcache: CertCache = CertCache()
    warnings: tuple[str, ...] = ()

    def secrets(self) -> tuple[str, ...]:
        """What must never be in a log, longest first."""
        found: set[str] = set()
        for volume in self.volumes:
            found.add(volume.bearer_token)
            if volume.raw_key is not None:
                found |= {volume.raw_key.reveal().hex(), volume.raw_key.reveal().hex().upper()}
            if isinstance(volume.image, BlobUrl):
                found.add(volume.image.sas)
        return tuple(sorted(found - {""}, key=len, reverse=True))
