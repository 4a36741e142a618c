"""Key info files: the public keys that image layers are encrypted to.

Rules: a path that came over gRPC is only looked for inside the folder that the operator named; a path of the
command line may be anywhere.

Kind: adapter
"""

from __future__ import annotations

from pathlib import Path

from sidecar.errors import KeyNotAllowed, UsageError
from sidecar.ocicrypt import KeyInfo, parse_key_info, parse_public_key

_MAX_FILE = 64 << 10


def read_key_info(key_path: str, *, folder: Path | None = None) -> KeyInfo:
    """Read `<key_path>-info.json` and the public key it names.

    Args:
        key_path: its last part is the key's name.
        folder: what both files must lie in; None for no such limit.

    Raises:
        KeyNotAllowed: outside of the folder.
        UsageError: a file cannot be read.
        MalformedInput: a file is not what it should be.
    """
    place = _inside(Path(key_path + "-info.json"), folder)
    found = parse_key_info(_read(place), f"key info {place.name}")
    public = _inside(Path(found.public_key_path), folder)
    key = parse_public_key(_read(public), f"public key {public.name}")
    return KeyInfo(Path(key_path).name, key, found.kms_endpoint, found.attester_endpoint)


def _inside(path: Path, folder: Path | None) -> Path:
    """The path, once it is known to lie in the folder with every symbolic link followed."""
    if folder is None:
        return path
    whole = (folder / path).resolve()
    if not whole.is_relative_to(folder.resolve()):
        raise KeyNotAllowed(
            "key info: outside of the folder of keys", hint="the folder is --key-directory of the server"
        )
    return whole


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise UsageError(f"key info {path.name}: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(data) > _MAX_FILE:
        raise UsageError(f"key info {path.name}: over {_MAX_FILE} bytes")
    return data
