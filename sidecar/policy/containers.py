"""One container, whatever it was written in, and the policy entry made of it.

`ContainerSpec` is what a template, a configuration file or a Kubernetes object asks for; `ContainerEntry` is
what the policy admits, once the image's own settings are merged in. Both are values.

Rules: an entry lists its members sorted by name, since the policy's digest depends on the bytes. Literal text
that becomes part of an RE2 pattern is escaped; a pattern from outside is fenced in a group between anchors:
without the group, `A=x|y` between anchors would admit everything that begins with `A=x`.

Spec: hcsshim, pkg/securitypolicy/framework.rego (what is compared); confcom's policy text for the members.

Kind: pure
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sidecar.errors import MalformedInput
from sidecar.policy.members import ANYBODY, Capabilities, ExecProcess, JsonObject, UserRule

MAX_CONTAINERS = 256
_MAX_PATTERN = 4096  # characters of a pattern from outside
_PLAIN_PATTERN = re.compile(r"\.[*+]")
# What RE2 lacks: look-around, back-references, possessive quantifiers. \Q hides brackets from our count.
_NOT_RE2 = re.compile(r"\(\?(?:[=!>#|]|<[=!])|\(\?P[=>]|\\[1-9kQ]|[*+?}]\+")


class Scenario(StrEnum):
    """Where the containers run: both add rules of their own."""

    ACI = "aci"
    VN2 = "vn2"


@dataclass(frozen=True, slots=True)
class EnvRule:
    """One environment rule: the variable's name, for merging, and what the policy says of it."""

    name: str
    pattern: str
    strategy: Literal["string", "re2"] = "string"
    required: bool = False

    def to_json(self) -> JsonObject:
        return {"pattern": self.pattern, "required": self.required, "strategy": self.strategy}


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount that a container may have."""

    destination: str
    source: str
    options: tuple[str, ...] = ("rbind", "rshared", "rw")

    def to_json(self) -> JsonObject:
        return {
            "destination": self.destination,
            "options": list(self.options),
            "source": self.source,
            "type": "bind",
        }


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """What the description asks for beyond a container's defaults."""

    privileged: bool = False
    allow_privilege_escalation: bool = True
    run_as_user: int | None = None
    run_as_group: int | None = None
    further_groups: tuple[int, ...] = ()
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    seccomp_sha256: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container as described, before its image is known.

    `entrypoint` replaces the image's Entrypoint and Cmd, `arguments` replaces Cmd where it has any; None
    means that the description knows no arguments.
    Mounts and rules that every container of the scenario has are added by the merge, not here.
    """

    name: str
    image: str
    entrypoint: tuple[str, ...] | None = None
    arguments: tuple[str, ...] | None = None
    env: tuple[EnvRule, ...] = ()
    mounts: tuple[Mount, ...] = ()
    exec_processes: tuple[ExecProcess, ...] = ()
    security: SecurityContext = SecurityContext()
    working_dir: str | None = None
    archive: str | None = None


@dataclass(frozen=True, slots=True)
class ContainerEntry:
    """A container as the policy admits it."""

    name: str | None
    id: str | None
    layers: tuple[str, ...]
    command: tuple[str, ...] | None
    env_rules: tuple[EnvRule, ...]
    capabilities: Capabilities
    mounts: tuple[Mount, ...] = ()
    exec_processes: tuple[ExecProcess, ...] = ()
    signals: tuple[int, ...] = ()
    user: UserRule = ANYBODY
    working_dir: str = "/"
    allow_elevated: bool = False
    allow_stdio_access: bool = True
    no_new_privileges: bool = False
    seccomp_profile_sha256: str = ""

    def to_json(self) -> JsonObject:
        """The entry's members, sorted by name."""
        named: JsonObject = {} if self.name is None else {"name": self.name}
        identified: JsonObject = {} if self.id is None else {"id": self.id}
        entry = named | identified | {
            "allow_elevated": self.allow_elevated,
            "allow_stdio_access": self.allow_stdio_access,
            "capabilities": self.capabilities.to_json(),
            "command": None if self.command is None else list(self.command),
            "env_rules": [rule.to_json() for rule in self.env_rules],
            "exec_processes": [process.to_json() for process in self.exec_processes],
            "layers": list(self.layers),
            "mounts": [mount.to_json() for mount in self.mounts],
            "no_new_privileges": self.no_new_privileges,
            "seccomp_profile_sha256": self.seccomp_profile_sha256,
            "signals": list(self.signals),
            "user": self.user.to_json(),
            "working_dir": self.working_dir,
        }  # fmt: skip
        return dict(sorted(entry.items()))


@dataclass(frozen=True, slots=True)
class ContainerGroup:
    """The containers that share one policy.

    `name` names the group in messages; `existing` is the policy it carries now, in base64; `imports` are the
    fragments its own description asks for, `standalone` those it names by a registry's reference;
    `default_fragment` is None unless the description decides it;
    `notes` are warnings for whoever wrote it.
    """

    name: str
    containers: tuple[ContainerSpec, ...]
    scenario: Scenario = Scenario.ACI
    existing: str = ""
    imports: tuple[JsonObject, ...] = ()
    standalone: tuple[str, ...] = ()
    default_fragment: bool | None = None
    default_fragment_last: bool = False
    notes: tuple[str, ...] = ()


# -- environment rules from text ------------------------------------------------------------------


def literal_env(name: str, value: str, what: str) -> EnvRule:
    """The rule for one variable with one value.

    Raises:
        MalformedInput: a name or a value that no environment can hold.
    """
    _check_name(name, what)
    if "\0" in value:
        raise MalformedInput(f"{what}: environment variable {name!r}: a NUL in its value")
    return EnvRule(name, f"{name}={value}")


def pattern_env(name: str, pattern: str, what: str) -> EnvRule:
    """The rule for one variable whose value matches an RE2 pattern from end to end.

    Raises:
        MalformedInput: as `literal_env`, or a pattern that RE2 lacks or that would leave its group.
    """
    _check_name(name, what)
    check_re2(pattern, f"{what}: environment variable {name!r}")
    # Anchors of its own would stand in the middle, where nothing fits; from end to end they say nothing new.
    if pattern.startswith("^") and not pattern.startswith(("^?", "^*", "^+", "^{")):
        pattern = pattern[1:]
    if pattern.endswith("$") and (len(pattern) - len(pattern[:-1].rstrip("\\"))) % 2:
        pattern = pattern[:-1]
    fenced = pattern if _PLAIN_PATTERN.fullmatch(pattern) else f"(?:{pattern})"
    return EnvRule(name, f"^{escape_re2(name)}={fenced}$", "re2")


def wildcard_env(name: str, what: str) -> EnvRule:
    """The rule for one variable with any value, none included; asked for by name only."""
    return pattern_env(name, ".*", what)


def escape_re2(text: str) -> str:
    """Literal text as an RE2 pattern: every ASCII sign that could mean something is quoted."""
    return re.sub(r"([^A-Za-z0-9_\x80-\U0010ffff])", r"\\\1", text)


def check_re2(pattern: str, what: str) -> None:
    """Refuse what RE2 cannot compile or what could close the group around it; MalformedInput."""
    if len(pattern) > _MAX_PATTERN:
        raise MalformedInput(f"{what}: a pattern of {len(pattern)} characters, at most {_MAX_PATTERN}")
    if _NOT_RE2.search(re.sub(r"\\[^1-9kQ]", "a", pattern)) or not _brackets_match(pattern):
        raise MalformedInput(
            f"{what}: pattern {pattern!r} is not one RE2 pattern",
            hint="RE2 has no look-around, \\1 or \\Q; brackets must match",
        )


def _brackets_match(pattern: str) -> bool:
    """Whether groups and classes are closed, so that no part of the pattern leaves a group around it."""
    # A character after a backslash stands for itself or a class: any plain letter does for counting.
    bare = re.sub(r"(?s)\\.", "a", pattern)
    depth, class_start = 0, -1
    for at, sign in enumerate(bare):
        if class_start >= 0:
            # A bracket that comes first in a class is one of its members.
            if sign == "]" and bare[class_start:at] not in ("[", "[^"):
                class_start = -1
        elif sign == "[":
            class_start = at
        else:
            depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth < 0:
            return False
    return depth == 0 and class_start < 0 and not bare.endswith("\\")


def check_path(path: str, what: str) -> str:
    """An absolute path inside a container; MalformedInput otherwise."""
    if not path.startswith("/") or "\0" in path:
        raise MalformedInput(f"{what}: {path!r}, wanted an absolute path")
    return path


def check_names(specs: Iterable[ContainerSpec], what: str) -> tuple[ContainerSpec, ...]:
    """The containers of one group: at least one, not too many."""
    found = tuple(specs)
    if not found:
        raise MalformedInput(f"{what}: no containers")
    if len(found) > MAX_CONTAINERS:
        raise MalformedInput(f"{what}: {len(found)} containers, at most {MAX_CONTAINERS} are accepted")
    return found


def _check_name(name: str, what: str) -> None:
    if not name or "=" in name or "\0" in name:
        raise MalformedInput(f"{what}: environment variable {name!r}: not a name a variable can have")
