"""Members of a policy's container that its writer and its reader share: processes, users, capabilities.

Kind: pure

Spec: hcsshim, pkg/securitypolicy/framework.rego.
"""

from __future__ import annotations

from dataclasses import dataclass

JsonObject = dict[str, object]
CAPABILITY_SETS = ("ambient", "bounding", "effective", "inheritable", "permitted")


@dataclass(frozen=True, slots=True)
class ExecProcess:
    """A further process that may be started in the container: a probe, a hook, a shell."""

    command: tuple[str, ...]
    signals: tuple[int, ...] = ()

    def to_json(self) -> JsonObject:
        """As the policy spells it."""
        return {"command": list(self.command), "signals": list(self.signals)}


@dataclass(frozen=True, slots=True)
class IdName:
    """What a user or a group must be; strategy any, id, name or re2."""

    pattern: str = ""
    strategy: str = "any"

    def to_json(self) -> JsonObject:
        """As the policy spells it."""
        return {"pattern": self.pattern, "strategy": self.strategy}


@dataclass(frozen=True, slots=True)
class UserRule:
    """Whom the container runs as; every group it is in must match one of `groups`."""

    user: IdName = IdName()
    groups: tuple[IdName, ...] = (IdName(),)
    umask: str = "0022"

    def to_json(self) -> JsonObject:
        """As the policy spells it."""
        return {
            "group_idnames": [group.to_json() for group in self.groups],
            "umask": self.umask,
            "user_idname": self.user.to_json(),
        }


# What a policy that says nothing of users admits.
ANYBODY = UserRule()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The five capability sets of a process, each in the order of the policy's text."""

    ambient: tuple[str, ...] = ()
    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """As the policy spells it."""
        return {name: list(getattr(self, name)) for name in CAPABILITY_SETS}
