"""What a security policy admits, as values: containers with their rules, fragments, flags, and points.

Every value keeps the order of the policy's text, because the digest depends on it, and `to_json` gives the
members back as the policy spells them, sorted by name.

Spec: hcsshim, pkg/securitypolicy/framework.rego and api.rego: members, and defaults of older framework
    versions.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.policy.members import ANYBODY, Capabilities, ExecProcess, JsonObject, UserRule

FLAGS = (
    "allow_properties_access",
    "allow_dump_stacks",
    "allow_runtime_logging",
    "allow_environment_variable_dropping",
    "allow_unencrypted_scratch",
    "allow_capability_dropping",
    "allow_host_network",
)


@dataclass(frozen=True, slots=True)
class EnvRule:
    """One environment rule; `pattern` is NAME=VALUE, a literal or an RE2 expression by `strategy`."""

    pattern: str
    strategy: str
    required: bool = False

    @property
    def name(self) -> str:
        """The text before the first `=`: the variable's name, for a literal rule."""
        return self.pattern.partition("=")[0]

    def to_json(self) -> JsonObject:
        return {"pattern": self.pattern, "required": self.required, "strategy": self.strategy}


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount that a container may have; the source is a regular expression below `sandbox://`."""

    destination: str
    source: str
    type: str
    options: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return {
            "destination": self.destination,
            "options": list(self.options),
            "source": self.source,
            "type": self.type,
        }


@dataclass(frozen=True, slots=True)
class Container:
    """A container that the policy admits.

    Attributes:
        name, id: None where the policy leaves them out; neither is compared with what runs.
        command: None admits a container without a command.
        layers: dm-verity root hashes, 64 hex digits each, base layer first.
        capabilities: None where the policy is too old to say: the utility VM computes them.
    """

    name: str | None
    id: str | None
    command: tuple[str, ...] | None
    env_rules: tuple[EnvRule, ...]
    layers: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()
    exec_processes: tuple[ExecProcess, ...] = ()
    signals: tuple[int, ...] = ()
    capabilities: Capabilities | None = None
    user: UserRule = ANYBODY
    working_dir: str = "/"
    allow_elevated: bool = False
    allow_stdio_access: bool = False
    no_new_privileges: bool = False
    seccomp_profile_sha256: str = ""

    @property
    def label(self) -> str:
        """What people call it: its name, else its image, else its topmost layer."""
        return self.name or self.id or f"layer {self.layers[-1][:12] if self.layers else 'none'}"

    def to_json(self) -> JsonObject:
        """The members as the policy has them, sorted by name."""
        entry: JsonObject = {
            "allow_elevated": self.allow_elevated,
            "allow_stdio_access": self.allow_stdio_access,
            "capabilities": None if self.capabilities is None else self.capabilities.to_json(),
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
        }
        entry |= {} if self.name is None else {"name": self.name}
        entry |= {} if self.id is None else {"id": self.id}
        return dict(sorted(entry.items()))


@dataclass(frozen=True, slots=True)
class FragmentImport:
    """A signed addition that the policy accepts: who must have signed it, for what, and how new."""

    issuer: str
    feed: str
    minimum_svn: str
    includes: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return {
            "feed": self.feed,
            "includes": list(self.includes),
            "issuer": self.issuer,
            "minimum_svn": self.minimum_svn,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """An enforcement point: decided by the framework, or with a fixed answer (True: all is allowed)."""

    name: str
    fixed: bool | None = None

    @property
    def words(self) -> str:
        return {None: "framework", True: "always allowed", False: "never allowed"}[self.fixed]


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy.

    Attributes:
        api_version, framework_version: "" where the text has none.
        flags: name and value of those that the text has, in its order.
        points: in the order of the text.
    """

    package: str
    api_version: str
    framework_version: str
    fragments: tuple[FragmentImport, ...]
    containers: tuple[Container, ...]
    flags: tuple[tuple[str, bool], ...]
    points: tuple[Point, ...]

    def flag(self, name: str) -> bool:
        """A flag's value; one that is not there is off."""
        return dict(self.flags).get(name, False)

    @property
    def admits_anything(self) -> bool:
        """Whether any container at all may run: create_container has a fixed answer."""
        return any(point.name == "create_container" and point.fixed for point in self.points)

    def to_json(self) -> JsonObject:
        return {
            "package": self.package,
            "api_version": self.api_version,
            "framework_version": self.framework_version,
            "fragments": [fragment.to_json() for fragment in self.fragments],
            "containers": [container.to_json() for container in self.containers],
            "flags": dict(self.flags),
            "points": {point.name: point.words for point in self.points},
        }


@dataclass(frozen=True, slots=True)
class FragmentText:
    """What a fragment's text says: its namespace, its security version, and what it adds."""

    namespace: str
    svn: str
    framework_version: str
    fragments: tuple[FragmentImport, ...]
    containers: tuple[Container, ...]
    includes: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return {
            "namespace": self.namespace,
            "svn": self.svn,
            "framework_version": self.framework_version,
            "fragments": [fragment.to_json() for fragment in self.fragments],
            "containers": [container.to_json() for container in self.containers],
        }
