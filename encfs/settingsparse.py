"""Settings of the agent: the predecessor's base64 JSON, with members of ours that it never had.

    {"azure_info": {"certcache": {"endpoint_type", "endpoint", "tee_type", "api_version", "client_id"},
                    "identity": {"client_id"}},
     "azure_filesystems": [
        {"azure_url" | "image", "azure_url_private", "mount_point", "read_write", "header", "take_over",
         "require_authenticated_header", "verity_root_hash", "require", "anchor", "accept_rollback",
         "cache_size", "read_ahead",
         "key": {"kid", "kty", "key_ops", "authority": {"endpoint", "tee_type", "api_version"},
                 "akv": {"endpoint", "api_version", "bearer_token"}}
          | "key_url", "maa_endpoint", "bearer_token"  | "raw_key",
         "key_derivation": {"salt", "label"}}]}

Strategy: everything is read, then every mistake is reported in one message, so that one redeployment mends
them all.

Rules: both base64 alphabets, padded or not, and plain JSON are read. Member names match in any case and null
means absent, as the predecessor's parser had it. API versions, TEE type, key type and operations are what
we or the services decide, as before; they are read and checked for their form only. Unknown members are
named in a warning. `raw_key` counts only where the caller allows it.

Spec: confidential-sidecar-containers, AzureFilesystem and RemoteFilesystemsInformation of encfs.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

from encfs.errors import UsageError
from encfs.settings import AgentSettings, CertCache, VolumeSettings
from encfs.settingsreader import Member, Mistakes
from encfs.settingsvolume import VolumeReader
from encfs.strictjson import JsonRefused, load_object

VARIABLE = "EncfsSideCarArgs"
MAX_SETTINGS = 1 << 20  # bytes
MAX_VOLUMES = 64
_HINT = "docs/agent.md has a table of all members; `encfs agent --check` reads settings and mounts nothing"


def parse_settings(text: str | bytes, name: str = VARIABLE, *, allow_raw_key: bool = False) -> AgentSettings:
    """Read the base64 JSON, or the JSON itself.

    Args:
        text: may hold secrets.
        name: where it comes from, for messages.
        allow_raw_key: use keys that are in the settings, which no attestation protects.

    Raises:
        UsageError: one message naming every mistake found; it shows no secret.
    """
    try:
        top = load_object(_decode(text, name), max_bytes=MAX_SETTINGS, max_values=50_000)
    except JsonRefused as exc:
        raise UsageError(f"{name}: {exc}", hint=_HINT) from exc
    mistakes = Mistakes()
    root = Member(top, "", mistakes)
    settings = read_settings(root, mistakes, allow_raw_key=allow_raw_key)
    if mistakes.found:
        count = len(mistakes.found)
        many = f"{count} mistakes: " if count > 1 else ""
        raise UsageError(f"{name}: {many}" + "; ".join(mistakes.found), hint=_HINT)
    return settings


def read_settings(root: Member, mistakes: Mistakes, *, allow_raw_key: bool) -> AgentSettings:
    """Read the object; when there are mistakes, the value is not to be used."""
    certcache, client_id = _azure_info(root.part("azure_info"))
    listed = root.parts("azure_filesystems")
    if not listed:
        mistakes.add("azure_filesystems: missing or empty, wanted at least one volume")
    if len(listed) > MAX_VOLUMES:
        mistakes.add(f"azure_filesystems: {len(listed)} volumes, wanted at most {MAX_VOLUMES}")
    reader = VolumeReader(mistakes, allow_raw_key, client_id)
    volumes = tuple(reader.read(index, part) for index, part in enumerate(listed[:MAX_VOLUMES]))
    for mistake in _collisions(volumes):
        mistakes.add(mistake)
    root.finish()
    return AgentSettings(volumes, client_id, certcache, tuple(mistakes.warnings))


def _decode(text: str | bytes, name: str) -> bytes:
    """The JSON inside the settings; base64 has no braces, so the two cannot be mistaken."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    data = data.removeprefix(b"\xef\xbb\xbf").strip()
    if not data:
        raise UsageError(f"{name}: empty, wanted base64 of a JSON object", hint=_HINT)
    if len(data) > 2 * MAX_SETTINGS:
        raise UsageError(f"{name}: {len(data)} bytes, wanted at most {2 * MAX_SETTINGS}")
    if data.startswith(b"{"):
        return data
    compact = b"".join(data.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except binascii.Error:
        raise UsageError(f"{name}: neither base64 nor JSON", hint=_HINT) from None


def _azure_info(info: Member) -> tuple[CertCache, str]:
    cache = info.part("certcache")
    kind = cache.text("endpoint_type")
    if kind not in ("", "AMD", "AzCache", "LocalTHIM"):
        cache.mistake("endpoint_type", f"{kind[:32]!r}, wanted AMD, AzCache or LocalTHIM")
    names = ("endpoint", "tee_type", "api_version", "client_id")
    certcache = CertCache(kind, *(cache.text(name) for name in names))
    return certcache, info.part("identity").text("client_id")


def _collisions(volumes: tuple[VolumeSettings, ...]) -> Iterator[str]:
    """What two volumes cannot both have."""
    for volume in volumes:
        here = f"azure_filesystems[{volume.index}]"
        for other in volumes[: volume.index]:
            there = f"azure_filesystems[{other.index}]"
            if not volume.mount_point or not other.mount_point:
                continue
            if volume.mount_point == other.mount_point:
                yield f"{here}.mount_point: the same as {there}.mount_point"
            elif _is_inside(volume.mount_point, other.mount_point):
                yield f"{here}.mount_point: inside {there}.mount_point"
            elif _is_inside(other.mount_point, volume.mount_point):
                yield f"{there}.mount_point: inside {here}.mount_point"
            if volume.name and volume.name == other.name and (volume.read_write or other.read_write):
                yield f"{here}: the same image as {there}, and one of them is read-write"


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
