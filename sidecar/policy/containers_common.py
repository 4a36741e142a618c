"""What templates, configuration files and Kubernetes objects write the same way.

Kind: pure
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from sidecar.errors import MalformedInput
from sidecar.policy.arm_values import find, find_object, find_words
from sidecar.policy.members import ExecProcess, JsonObject
from sidecar.policy.parse_containers import parse_import as import_members
from sidecar.strictjson import as_object

# Asks whether a variable may have any value; its argument is the question. Raises where nobody can be asked.
Approve: TypeAlias = Callable[[str], bool]

_THIM_ARM = re.compile(r"===CONFIDENTIAL.THIM.ENDPOINT===")
_THIM_VN2 = re.compile(r"===VIRTUALNODE2.CC.THIM.(.+)===")


def is_thim_placeholder(name: str, value: str) -> bool:
    """Whether the service replaces the value by the address of the certificate cache."""
    return bool((name == "THIM_ENDPOINT" and _THIM_ARM.fullmatch(value)) or _THIM_VN2.fullmatch(value))


def approved(approve: Approve, question: str, what: str) -> None:
    """Ask; MalformedInput when the answer is no."""
    if not approve(question):
        raise MalformedInput(f"{what}: not approved", hint="write the value down, or approve with -y")


def exec_action(action: Mapping[str, object], what: str) -> ExecProcess | None:
    """The process that a probe or a hook starts; None for one that asks over the network."""
    run = find(action, "exec", what)
    if run is None:
        return None
    command = find_words(find_object(action, "exec", what), "command", f"{what}: exec")
    if not command:
        raise MalformedInput(f"{what}: exec without a command")
    return ExecProcess(command)


def parse_import(value: object, what: str) -> JsonObject:
    """A fragment's import as it stands in a policy; the member `path`, for local use, is dropped.

    Raises:
        MalformedInput: a member is missing, unknown or not of the form.
    """
    members = as_object(value, what)
    wanted = {name: member for name, member in members.items() if name != "path"}
    return import_members(wanted, what).to_json()
