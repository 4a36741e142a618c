"""Members of the settings, found by letting the real readers read examples and noting what they ask for.

An example is only there to lead a reader down one of its branches; its values do not matter.
"""

from __future__ import annotations

from typing import Any

_KEY = {"kid": "k", "kty": "RSA-HSM", "authority": {"endpoint": "a"}, "akv": {"endpoint": "v"}}
_EXAMPLES: tuple[dict[str, object], ...] = (
    {"image": "/i", "mount_point": "/m", "key": _KEY},
    {"azure_url": "https://a.b/c/d", "mount_point": "/m", "key_url": "https://v/keys/k", "maa_endpoint": "a"},
    {"image": "/i", "mount_point": "/m", "raw_key": "00" * 32},
)


def agent_members() -> dict[str, str]:
    """Path and form of every member of an agent's settings; volumes are `azure_filesystems[]`."""
    from encfs.settingsparse import read_settings
    from encfs.settingsreader import Member, Mistakes

    found: dict[str, str] = {}
    for example in _EXAMPLES:
        mistakes = Mistakes()
        root = Member({"azure_filesystems": [example]}, "", mistakes)
        read_settings(root, mistakes, allow_raw_key=True)
        found |= {path.replace("[0]", "[]"): wanted for path, wanted in root.asked()}
    return found


class _Noting(dict[str, Any]):
    """A JSON object that notes which members are asked for."""

    def __init__(self, path: str, notes: dict[str, None], content: dict[str, Any]) -> None:
        super().__init__(content)
        self._path, self._notes = path, notes

    def get(self, name: str, default: Any = None) -> Any:
        self._notes[self._path + name] = None
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self._notes[f"{self._path}{name}"] = None
        return super().__contains__(name)


def sidecar_members() -> list[str]:
    """Path of every member of the sidecar's settings that holds a value."""
    from sidecar.config import read_settings

    notes: dict[str, None] = {}
    parts = {
        name: _Noting(f"{name}.", notes, content)
        for name, content in (
            ("certcache", {"endpoint_type": "AMD", "endpoint": "https://kdsintf.amd.com"}),
            ("identity", {}),
            ("maaconfig", {}),
            ("allow", {}),
        )
    }
    read_settings(_Noting("", notes, parts))
    return [path for path in notes if path not in parts]
