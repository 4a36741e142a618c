"""Settings files to values, every mistake reported at once.

The key configuration of `--key-config` names the key in the vault, the authority that attests, and how the
passphrase comes from the released key. Its members are those of a file system in the agent's settings:

    {"key": {"kid": "name[/version]", "authority": {"endpoint": HOST}, "akv": {"endpoint": HOST}},
     "key_derivation": {"salt": HEX, "label": TEXT}}

HOST has no scheme; `host:port` is allowed. `key_derivation` is for RSA keys, and then the salt is required:
without one, import and mount could derive different keys and nobody would know why.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from encfs.errors import UsageError
from encfs.strictjson import JsonRefused, load_object

MAX_CONFIG = 64 << 10
_KNOWN_KEY = {"kid", "kty", "key_ops", "authority", "akv"}
_KNOWN_TOP = {"key", "key_derivation"}


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """One key to release.

    Attributes:
        kid: key name in the vault, or `name/version`.
        maa_endpoint: host of the attestation authority, no scheme.
        akv_endpoint: host of the vault or managed HSM, no scheme.
        salt: HKDF salt for RSA keys, public; None when not given.
        label: HKDF label for RSA keys; None for the default.
    """

    kid: str
    maa_endpoint: str
    akv_endpoint: str
    salt: bytes | None = None
    label: str | None = None


def parse_key_config(data: bytes, name: str = "key configuration") -> KeyConfig:
    """Parse a key configuration.

    Args:
        data: the JSON document, public.
        name: of the file, for messages.

    Raises:
        UsageError: one message naming every mistake found.
    """
    try:
        top = load_object(data, max_bytes=MAX_CONFIG)
    except JsonRefused as exc:
        raise UsageError(f"{name}: {exc}", hint="see `encfs mount --help` for its form") from exc
    mistakes: list[str] = []
    mistakes += [f"unknown member {member!r}" for member in sorted(top.keys() - _KNOWN_TOP)]
    key = _object(top, "key", mistakes)
    mistakes += [f"unknown member key.{member!r}" for member in sorted(key.keys() - _KNOWN_KEY)]
    kid = _text(key, "key.kid", mistakes)
    authority = _text(_object(key, "key.authority", mistakes), "key.authority.endpoint", mistakes)
    vault = _text(_object(key, "key.akv", mistakes), "key.akv.endpoint", mistakes)
    derivation = top.get("key_derivation", {})
    salt, label = None, None
    if not isinstance(derivation, dict):
        mistakes.append("key_derivation is not an object")
    else:
        salt = _hex(derivation.get("salt"), "key_derivation.salt", mistakes)
        label = derivation.get("label") or None
        if label is not None and not isinstance(label, str):
            mistakes.append("key_derivation.label is not a string")
    if mistakes:
        raise UsageError(f"{name}: " + "; ".join(mistakes), hint="see `encfs mount --help` for its form")
    return KeyConfig(kid, authority, vault, salt, label)


def _object(parent: Mapping[str, object], path: str, mistakes: list[str]) -> Mapping[str, object]:
    value = parent.get(path.rpartition(".")[2])
    if isinstance(value, dict):
        return value
    mistakes.append(f"{path} is missing" if value is None else f"{path} is not an object")
    return {}


def _text(parent: Mapping[str, object], path: str, mistakes: list[str]) -> str:
    value = parent.get(path.rpartition(".")[2])
    if isinstance(value, str) and value:
        return value
    mistakes.append(f"{path} is missing or empty" if value in (None, "") else f"{path} is not a string")
    return ""


def _hex(value: object, path: str, mistakes: list[str]) -> bytes | None:
    if value in (None, ""):
        return None
    try:
        if isinstance(value, str):
            return bytes.fromhex(value)
    except ValueError:
        pass
    mistakes.append(f"{path} is not hex digits")
    return None
