"""Reads one volume of an agent's settings; see `encfs.settingsparse` for their form.

Kind: pure
"""

from __future__ import annotations

import os.path
import re
from urllib.parse import urlsplit

from encfs.block.bloburl import BlobUrl, is_blob_url, parse_blob_url
from encfs.block.cachesettings import CacheSettings, sized
from encfs.config import KeyConfig
from encfs.errors import UsageError
from encfs.keys import KEY_SIZE, Secret
from encfs.protection import Protection, parse_protection
from encfs.settings import VolumeSettings
from encfs.settingsreader import Member, Mistakes

DEFAULT_CACHE = 256 << 20  # bytes
ROOT_SIZE = 32
_MAX_CACHE = 1 << 40
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[1-9][0-9]{0,4})?", re.ASCII)
_KID = re.compile(r"[A-Za-z0-9-]{1,127}(?:/[A-Za-z0-9]{1,64})?", re.ASCII)
_KTY = ("", "oct", "oct-HSM", "RSA", "RSA-HSM")
_SIZE = re.compile(r"([1-9][0-9]{0,11})([KMG]?)", re.ASCII)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class VolumeReader:
    """Reads one member of `azure_filesystems` after the other."""

    def __init__(self, mistakes: Mistakes, allow_raw_key: bool, client_id: str) -> None:
        self._mistakes = mistakes
        self._client_id = client_id
        self._allow_raw_key = allow_raw_key

    def read(self, index: int, volume: Member) -> VolumeSettings:
        """One volume; what is wrong is in the mistakes, and then the value is not to be used."""
        image = self._image(volume)
        private = volume.flag("azure_url_private")
        read_write = volume.flag("read_write")
        take_over = volume.flag("take_over")
        if isinstance(image, str):
            for name, value in (("azure_url_private", private), ("take_over", take_over)):
                if value and image:
                    volume.mistake(name, "true for a local image, it is for blobs")
        elif private and image.sas:
            volume.mistake(
                "azure_url_private", "true, but the address has a signature; wanted one of the two"
            )
        raw_key = self._raw_key(volume)
        key, bearer_token = self._key(volume, optional=raw_key is not None)
        return VolumeSettings(
            index=index,
            image=image,
            mount_point=_mount_point(volume),
            read_write=read_write,
            private=private,
            key=None if raw_key is not None else key,
            bearer_token=bearer_token,
            raw_key=raw_key,
            header=volume.text("header") or None,
            take_over=take_over,
            require_authenticated_header=volume.flag("require_authenticated_header"),
            cache=_cache(volume),
            root_hash=self._root_hash(volume, read_write),
            require=_require(volume),
            anchor=_anchor(volume, has_key=raw_key is None),
            accept_rollback=volume.flag("accept_rollback"),
            client_id=self._client_id,
        )

    def _image(self, volume: Member) -> str | BlobUrl:
        url, local = volume.text("azure_url"), volume.text("image")
        if bool(url) == bool(local):
            both = "both given" if url else "missing"
            volume.mistake("azure_url", f"{both}, wanted either azure_url or image")
            return ""
        if url and not is_blob_url(url):
            volume.mistake("azure_url", "not an address, wanted https://; image is for local files")
            return ""
        if not is_blob_url(url or local):
            if not os.path.isabs(local):
                volume.mistake("image", f"{local[:100]!r} is a relative path, wanted an absolute one")
            return os.path.normpath(local)
        try:
            return parse_blob_url(url or local)
        except UsageError as exc:
            volume.mistake("azure_url" if url else "image", str(exc))
            return ""

    def _root_hash(self, volume: Member, read_write: bool) -> bytes | None:
        root = volume.hex("verity_root_hash")
        if root is not None and len(root) != ROOT_SIZE:
            volume.mistake("verity_root_hash", f"{len(root)} bytes, wanted {ROOT_SIZE} in hex")
        if root is not None and read_write:
            volume.mistake("verity_root_hash", "for a read-write volume, wanted a read-only one")
        return root

    def _raw_key(self, volume: Member) -> Secret | None:
        text = volume.text("raw_key")
        if not text:
            return None
        if not self._allow_raw_key:
            if volume.has("key") or volume.has("key_url"):
                self._mistakes.warn(f"{volume.path}.raw_key: ignored, without --insecure-raw-key")
            else:
                volume.mistake("raw_key", "given without --insecure-raw-key, and no other key is named")
                return Secret(b"")
            return None
        if not re.fullmatch(rf"[0-9A-Fa-f]{{{2 * KEY_SIZE}}}", text):
            volume.mistake("raw_key", f"{len(text)} characters, wanted {2 * KEY_SIZE} hex digits")
            return Secret(b"")
        self._mistakes.warn(f"{volume.path}.raw_key: the key is in the settings; no attestation protects it")
        return Secret(bytes.fromhex(text), full_entropy=True)

    def _key(self, volume: Member, *, optional: bool) -> tuple[KeyConfig | None, str]:
        derivation = volume.part("key_derivation")
        salt, label = derivation.hex("salt"), derivation.text("label")
        nested, url = volume.part("key"), volume.text("key_url")
        if volume.has("key") and url:
            volume.mistake("key_url", "given beside key, wanted one of the two")
        if url:
            kid, vault = _key_url(volume, url)
            authority = volume.text("maa_endpoint")
            _check_host(volume, "maa_endpoint", authority)
            return KeyConfig(kid, authority, vault, salt, label or None), volume.text("bearer_token")
        if not volume.has("key"):
            if not optional:
                volume.mistake("key", "missing, wanted key or key_url")
            return None, ""
        return self._nested_key(nested, salt, label)

    def _nested_key(self, key: Member, salt: bytes | None, label: str) -> tuple[KeyConfig, str]:
        kid, kty = key.text("kid"), key.text("kty")
        if not _KID.fullmatch(kid):
            key.mistake("kid", "missing" if not kid else f"{kid[:64]!r}, wanted NAME or NAME/VERSION")
        if kty not in _KTY:
            key.mistake("kty", f"{kty[:32]!r}, wanted oct-HSM or RSA-HSM: no other key opens a volume")
        if kty.startswith("RSA") and not salt:
            key.mistake("kty", "RSA without key_derivation.salt, wanted the salt the key was imported with")
        key.strings("key_ops")
        authority, vault = key.part("authority"), key.part("akv")
        hosts = authority.text("endpoint"), vault.text("endpoint")
        for member, host in zip((authority, vault), hosts, strict=True):
            _check_host(member, "endpoint", host)
            member.text("api_version")
        authority.text("tee_type")
        return KeyConfig(kid, *hosts, salt, label or None), vault.text("bearer_token")


def _mount_point(volume: Member) -> str:
    path = volume.text("mount_point")
    if not path:
        volume.mistake("mount_point", "missing")
    elif not os.path.isabs(path):
        volume.mistake("mount_point", f"{path[:100]!r} is a relative path, wanted an absolute one")
    elif "\0" in path or os.path.normpath(path) in ("/", "//"):
        volume.mistake("mount_point", f"{path[:100]!r}, wanted a path below the root")
    elif os.path.basename(os.path.normpath(path)).startswith(".filesystem-"):
        volume.mistake("mount_point", f"{path[:100]!r}: names that begin so are the agent's own")
    else:
        return os.path.normpath(path)
    return ""


def _cache(volume: Member) -> CacheSettings:
    sizes = {name: _size(volume, name) for name in ("cache_size", "read_ahead")}
    wishes = {"read_ahead": sizes["read_ahead"]} if volume.has("read_ahead") else {}
    try:
        return sized(sizes["cache_size"] or DEFAULT_CACHE, **wishes)
    except UsageError as exc:
        volume.mistake("cache_size", str(exc).removeprefix("cache: "))
        return sized()


def _size(volume: Member, name: str) -> int:
    """Bytes of a size like 256M; 0 when absent, "0" or wrong."""
    text = volume.text(name)
    if text in ("", "0"):
        return 0
    if (match := _SIZE.fullmatch(text)) is None:
        volume.mistake(name, f"{text[:32]!r}, wanted a size like 256M")
        return 0
    return min(int(match[1]) * _UNITS[match[2]], _MAX_CACHE)


def _key_url(volume: Member, url: str) -> tuple[str, str]:
    """Name and version, and the vault, of a key's address: https://VAULT/keys/NAME[/VERSION]."""
    try:
        parts = urlsplit(url)
        host, segments = parts.netloc.lower(), parts.path.strip("/").split("/")
        extra = parts.query or parts.fragment
    except ValueError:
        host, segments, extra = "", [], ""
    kid = "/".join(segments[1:])
    good = url.lower().startswith("https://") and _HOST.fullmatch(host) and segments[:1] == ["keys"]
    if not good or extra or not _KID.fullmatch(kid):
        volume.mistake("key_url", "not a key's address, wanted https://VAULT/keys/NAME or .../NAME/VERSION")
    return kid, host


def _check_host(member: Member, name: str, host: str) -> None:
    if not host:
        member.mistake(name, "missing")
    elif not _HOST.fullmatch(host):
        member.mistake(name, f"{host[:64]!r}, wanted a host name without https:// and path")


def _require(volume: Member) -> Protection | None:
    text = volume.text("require")
    if not text:
        return None
    try:
        return parse_protection(text)
    except UsageError as exc:
        volume.mistake("require", str(exc))
        return None


def _anchor(volume: Member, *, has_key: bool) -> str:
    text = volume.text("anchor")
    if text == "vault" and not has_key:
        volume.mistake("anchor", "vault, but the key is a raw one; wanted a file")
    elif text not in ("", "vault") and not os.path.isabs(text):
        volume.mistake("anchor", f"{text[:100]!r}, wanted vault or an absolute path")
    return text
