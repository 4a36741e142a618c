"""The text of a policy, byte for byte, and its two encodings.

Strategy: the text is put together from fixed lines and JSON values; the version decides which flags and
bindings there are. The digest is of the compact text: the pretty one is for reading, and has another digest.

Rules: LF line ends, one empty line between groups, none after the last line; JSON in ASCII, members sorted.

Spec: confcom's policy texts; hcsshim, pkg/securitypolicy: HOST_DATA is the SHA-256 of the decoded policy.

Kind: pure
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.errors import UsageError
from sidecar.policy.members import JsonObject

DEFAULT_API = "0.11.0"
DEFAULT_FRAMEWORK = "0.2.3"
# The newest versions that this text is known for: a UVM refuses a policy that is ahead of it.
NEWEST_API = "0.12.0"
NEWEST_FRAMEWORK = "0.5.0"
_OLDEST_API = "0.10.0"
_OLDEST_FRAMEWORK = "0.2.0"
_VERSION = re.compile(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})")
# Enforcement point -> the API version from which on the text binds it.
_POINTS = (
    ("mount_device", "0.10.0"), ("unmount_device", "0.10.0"), ("mount_overlay", "0.10.0"),
    ("unmount_overlay", "0.10.0"), ("create_container", "0.10.0"), ("exec_in_container", "0.10.0"),
    ("exec_external", "0.10.0"), ("shutdown_container", "0.10.0"), ("signal_container_process", "0.10.0"),
    ("plan9_mount", "0.10.0"), ("plan9_unmount", "0.10.0"), ("get_properties", "0.10.0"),
    ("dump_stacks", "0.10.0"), ("runtime_logging", "0.10.0"), ("load_fragment", "0.10.0"),
    ("scratch_mount", "0.10.0"), ("scratch_unmount", "0.10.0"), ("rw_mount_device", "0.11.0"),
    ("host_network", "0.12.0"), ("load_transparency_trust_list", "0.12.0"),
)  # fmt: skip


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


class Entry(Protocol):
    """A container as a policy admits it, wherever it comes from."""

    def to_json(self) -> JsonObject:
        """Its members, sorted by name."""
        ...


@dataclass(frozen=True, slots=True)
class Flags:
    """What the policy allows beside its containers."""

    properties_access: bool = True
    dump_stacks: bool = False
    runtime_logging: bool = False
    environment_variable_dropping: bool = True
    unencrypted_scratch: bool = False
    capability_dropping: bool = True


@dataclass(frozen=True, slots=True)
class Versions:
    """API and framework version of a policy; UsageError for one whose text is not known."""

    api: str = DEFAULT_API
    framework: str = DEFAULT_FRAMEWORK

    def __post_init__(self) -> None:
        for words, version, oldest, newest in (
            ("api version", self.api, _OLDEST_API, NEWEST_API),
            ("framework version", self.framework, _OLDEST_FRAMEWORK, NEWEST_FRAMEWORK),
        ):
            if not _VERSION.fullmatch(version) or not _order(oldest) <= _order(version) <= _order(newest):
                raise UsageError(f"{words} {version!r}: wanted one from {oldest} to {newest}")

    @property
    def names_stop_signals(self) -> bool:
        """Whether entries name the two usual signals: newer UVMs do not add them, newer tools always do."""
        return _order(self.framework) >= _order("0.4.1") or _order(self.api) >= _order("0.11.0")

    @property
    def repeats_processes(self) -> bool:
        """Whether two equal probes are listed twice, as older tools do; it changes nothing but the digest."""
        return _order(self.api) < _order("0.11.0")


DEFAULT_VERSIONS = Versions()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy before it is text."""

    containers: tuple[Entry, ...]
    fragments: tuple[JsonObject, ...] = ()
    flags: Flags = Flags()
    versions: Versions = DEFAULT_VERSIONS

    def text(self, *, pretty: bool = False) -> str:
        """The policy's text; ASCII. Only the compact one is what a container group carries."""
        return "\n\n".join(
            (
                "package policy",
                "import future.keywords.every\nimport future.keywords.in",
                f'api_version := "{self.versions.api}"\nframework_version := "{self.versions.framework}"',
                f"fragments := {_json(self.fragments, pretty=True)}",
                f"containers := {containers_json(self.containers, pretty=pretty)}",
                self._flags(),
                self._bindings(),
                'reason := {"errors": data.framework.errors}',
            )
        )

    def _flags(self) -> str:
        flags = self.flags
        lines = [
            ("properties_access", flags.properties_access),
            ("dump_stacks", flags.dump_stacks),
            ("runtime_logging", flags.runtime_logging),
            ("environment_variable_dropping", flags.environment_variable_dropping),
            ("unencrypted_scratch", flags.unencrypted_scratch),
            ("capability_dropping", flags.capability_dropping),
        ]
        if _order(self.versions.api) >= _order("0.12.0"):
            lines.append(("host_network", False))
        return "\n".join(f"allow_{name} := {json.dumps(value)}" for name, value in lines)

    def _bindings(self) -> str:
        api = _order(self.versions.api)
        names = [name for name, introduced in _POINTS if _order(introduced) <= api]
        return "\n".join(f"{name} := data.framework.{name}" for name in names)


def sidecar_text(containers: Sequence[Entry], versions: Versions, *, pretty: bool = False) -> str:
    """The text for the service's own containers: a package of its own, without bindings."""
    return "\n\n".join(
        (
            "package microsoftcontainerinstance",
            f'api_version := "{versions.api}"\nframework_version := "{versions.framework}"',
            f"containers := {containers_json(containers, pretty=pretty)}",
        )
    )


def containers_json(containers: Sequence[Entry], *, pretty: bool = False) -> str:
    """The list of containers as it stands in a policy or a fragment."""
    return _json([container.to_json() for container in containers], pretty=pretty)


def encode(text: str) -> str:
    """The text as a container group carries it: padded base64, without line breaks."""
    return base64.b64encode(text.encode("ascii")).decode("ascii")


def digest(text: str) -> str:
    """SHA-256 of the text, 64 hex digits: HOST_DATA of a guest that runs under it."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _json(value: object, *, pretty: bool) -> str:
    if pretty:
        return json.dumps(value, indent=2, sort_keys=True)
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
