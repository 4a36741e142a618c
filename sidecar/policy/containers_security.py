"""Security context of a container: capabilities and the seccomp profile.

Rules: a capability that Linux does not have is refused by name; `NET_ADMIN` means CAP_NET_ADMIN, and `ALL`
means every one. The order is containerd's: ALL first, then what is added, then what is dropped.

Spec: capabilities(7); containerd, WithCapabilities; confcom, normalisation of seccomp profiles.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping

from sidecar.errors import MalformedInput
from sidecar.policy.arm_values import find, find_bool, find_list, find_object, find_text, find_words, kind
from sidecar.policy.containers import SecurityContext
from sidecar.policy.containers_defaults import PRIVILEGED, UNPRIVILEGED
from sidecar.policy.members import Capabilities, JsonObject
from sidecar.strictjson import load_object

ALL = "ALL"
_MAX_PROFILE = 1 << 20
_PROFILE_ORDER = (
    "defaultAction", "defaultErrnoRet", "architectures", "flags", "listenerPath", "listenerMetadata",
    "syscalls",
)  # fmt: skip


def capability(name: str, what: str) -> str:
    """The full name of a capability, or ALL; MalformedInput for one that Linux does not have."""
    upper = name.upper()
    if upper == ALL:
        return ALL
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in PRIVILEGED:
        raise MalformedInput(
            f"{what}: capability {name!r} is not one that Linux has", hint="see capabilities(7)"
        )
    return full


def capabilities_of(security: SecurityContext) -> Capabilities:
    """The five sets that a container of this context has."""
    base = set(PRIVILEGED if security.privileged else UNPRIVILEGED)
    if ALL in security.add:
        base = set(PRIVILEGED)
    if ALL in security.drop:
        base = set()
    named = tuple(sorted((base | (set(security.add) - {ALL})) - set(security.drop)))
    return Capabilities(
        bounding=named,
        effective=named,
        permitted=named,
        inheritable=named if security.privileged else (),
    )


def parse_security(context: Mapping[str, object], what: str) -> SecurityContext:
    """Read a `securityContext`; the words and their meaning are the same in templates and in Kubernetes.

    Raises:
        MalformedInput: a member of another type, an unknown capability, a profile that cannot be had.
    """
    wishes = find_object(context, "capabilities", what)
    escalation = find_bool(context, "allowPrivilegeEscalation", what)
    return SecurityContext(
        privileged=find_bool(context, "privileged", what) or False,
        allow_privilege_escalation=True if escalation is None else escalation,
        run_as_user=_id(context, "runAsUser", what),
        run_as_group=_id(context, "runAsGroup", what),
        further_groups=_further_groups(context, what),
        add=tuple(capability(name, what) for name in find_words(wishes, "add", what)),
        drop=tuple(capability(name, what) for name in find_words(wishes, "drop", what)),
        seccomp_sha256=_seccomp(find(context, "seccompProfile", what), what),
    )


def _id(context: Mapping[str, object], name: str, what: str) -> int | None:
    value = find(context, name, what)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise MalformedInput(f"{what}: member {name!r} is {kind(value)}, wanted a number from 0 on")
    return value


def _further_groups(context: Mapping[str, object], what: str) -> tuple[int, ...]:
    """Groups that Kubernetes gives the process beside its own."""
    further = find_list(context, "supplementalGroups", what)
    fs_group = _id(context, "fsGroup", what)
    groups = [_id({"supplementalGroups": one}, "supplementalGroups", what) for one in further]
    return tuple(group for group in (*groups, fs_group) if group is not None)


def _seccomp(profile: object, what: str) -> str:
    """SHA-256 of a profile in its normal form, hex; empty where the runtime's own applies."""
    if profile is None or profile == "":
        return ""
    if isinstance(profile, str):
        try:
            text = base64.b64decode(profile, validate=True)
        except binascii.Error:
            raise MalformedInput(f"{what}: seccompProfile: not base64") from None
        return seccomp_sha256(text, what)
    if not isinstance(profile, dict):
        raise MalformedInput(f"{what}: seccompProfile is {kind(profile)}, wanted base64 or an object")
    named = find_text(profile, "type", f"{what}: seccompProfile")
    if named in ("RuntimeDefault", "Unconfined"):
        return ""
    raise MalformedInput(
        f"{what}: seccompProfile of type {named!r}: its text is not in this file",
        hint="give the profile's base64 as seccompProfile",
    )


def seccomp_sha256(text: bytes, what: str) -> str:
    """SHA-256 of a seccomp profile in its normal form, hex.

    Raises:
        MalformedInput: not JSON, or a member of another type.
    """
    where = f"{what}: seccompProfile"
    profile = load_object(text, what=where, max_bytes=_MAX_PROFILE)
    normal: JsonObject = {}
    for name in _PROFILE_ORDER:
        value = find(profile, name, where)
        if name == "syscalls":
            if value is not None:
                normal[name] = [
                    _syscall(one, where) for one in find_list(profile, name, where, max_items=4096)
                ]
        elif value is not None or name == "defaultAction":
            normal[name] = "" if value is None else value
    return hashlib.sha256(json.dumps(normal, separators=(",", ":")).encode()).hexdigest()


def _syscall(rule: object, where: str) -> JsonObject:
    if not isinstance(rule, dict):
        raise MalformedInput(f"{where}: a rule is {kind(rule)}, wanted an object")
    normal: JsonObject = {
        "names": list(find_words(rule, "names", where)),
        "action": find_text(rule, "action", where) or "",
    }
    errno = find(rule, "errnoRet", where)
    if errno is not None:
        normal["errnoRet"] = errno
    if find(rule, "args", where) is not None:
        normal["args"] = [_argument(one, where) for one in find_list(rule, "args", where)]
    return normal


def _argument(rule: object, where: str) -> JsonObject:
    if not isinstance(rule, dict):
        raise MalformedInput(f"{where}: an argument is {kind(rule)}, wanted an object")
    normal: JsonObject = {
        "index": find(rule, "index", where) or 0,
        "value": find(rule, "value", where) or 0,
    }
    second = find(rule, "valueTwo", where)
    if second is not None:
        normal["valueTwo"] = second
    return normal | {"op": find_text(rule, "op", where) or ""}
