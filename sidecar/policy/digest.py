"""Where a security policy lies: Rego text, its base64, a template or a manifest that carries one or more.

Strategy: look at what the bytes are (JSON, YAML with the annotation, base64, text), find every policy in
them, and give each the name of the container group that it belongs to. The digest is over the decoded bytes
as they are: nothing is normalised, because the utility VM normalises nothing.

Spec: Azure container instances, confidentialComputeProperties.ccePolicy; virtual nodes, the annotation
    microsoft.containerinstance.virtualnode.ccepolicy; hcsshim, NewSecurityPolicyDigest.

Kind: pure
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.arm import template_text
from sidecar.securitypolicy import policy_text
from sidecar.strictjson import load_json

MAX_SIZE = 32 << 20
_ANNOTATION = "microsoft.containerinstance.virtualnode.ccepolicy"
_ANNOTATION_LINE = re.compile(
    rb"""^[ \t]*["']?microsoft\.containerinstance\.virtualnode\.ccepolicy["']?[ \t]*:"""
    rb"""[ \t]*(?P<quote>["']?)(?P<value>[A-Za-z0-9+/]*={0,2})(?P=quote)[ \t]*(?:\#[^\n]*)?\r?$""",
    re.MULTILINE,
)
_MENTION = re.compile(
    rb"""^[ \t]*["']?microsoft\.containerinstance\.virtualnode\.ccepolicy["']?[ \t]*:""", re.MULTILINE
)
_GENERATE = "sidecar policy generate makes a policy and puts it in place"


@dataclass(frozen=True, slots=True)
class FoundPolicy:
    """A policy and what it was found in.

    Attributes:
        name: of the container group; "" for a file that is a policy itself.
        text: the decoded bytes.
    """

    name: str
    text: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the text in hex: HOST_DATA of a guest that runs under the policy."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def label(self) -> str:
        return self.name or "security policy"


def find_policies(data: bytes, *, what: str = "input") -> tuple[FoundPolicy, ...]:
    """Every policy in a file, one at least.

    Args:
        data: Rego, base64, an ARM template or deployed group (JSON), or a manifest (YAML); at most 32 MiB.
        what: names the file in errors.

    Raises:
        MalformedInput: none of these, or no policy is in it.
    """
    if len(data) > MAX_SIZE:
        raise MalformedInput(f"{what}: {len(data)} bytes, at most {MAX_SIZE} are read")
    stripped = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    # Resource Manager takes comments in templates; neither Rego nor base64 begins like one.
    if stripped.startswith((b"{", b"[", b"//", b"/*")):
        found = _in_json(stripped, what)
    elif _MENTION.search(data):
        found = _in_yaml(data, what)
    else:
        return (FoundPolicy("", policy_text(data)),)
    if not found:
        raise MalformedInput(f"{what}: carries no security policy", hint=_GENERATE)
    return found


def only_policy(data: bytes, *, what: str = "input", group: str | None = None) -> FoundPolicy:
    """The one policy of a file, or that of one container group.

    Raises:
        MalformedInput: as `find_policies`, or there are several and `group` names none of them.
    """
    found = find_policies(data, what=what)
    chosen = [policy for policy in found if group is None or policy.name == group]
    if len({policy.text for policy in chosen}) != 1:
        names = ", ".join(repr(policy.name[:60]) for policy in found[:8])
        raise MalformedInput(
            f"{what}: {len(chosen)} policies fit, wanted one; its groups are {names}",
            hint="say which: --group NAME",
        )
    return chosen[0]


def _in_json(data: bytes, what: str) -> tuple[FoundPolicy, ...]:
    """Policies of all objects with confidentialComputeProperties, in the document's order."""
    found: list[FoundPolicy] = []
    document = load_json(template_text(data), what=what, max_bytes=MAX_SIZE, max_depth=64)
    pending: list[tuple[object, str]] = [(document, "")]
    while pending:
        value, name = pending.pop()
        if isinstance(value, list):
            pending.extend((item, name) for item in reversed(value))
        elif isinstance(value, dict):
            members = {key.lower(): member for key, member in value.items()}
            own = members.get("name")
            name = own if isinstance(own, str) else name
            properties = members.pop("confidentialcomputeproperties", None)
            if isinstance(properties, dict):
                text = {key.lower(): member for key, member in properties.items()}.get("ccepolicy")
                if text not in (None, ""):
                    found.append(FoundPolicy(name, _decoded(text, what, name)))
            pending.extend((member, name) for member in reversed(members.values()))
    return tuple(found)


def _in_yaml(data: bytes, what: str) -> tuple[FoundPolicy, ...]:
    lines = list(_ANNOTATION_LINE.finditer(data))
    if len(lines) != len(_MENTION.findall(data)):
        raise MalformedInput(
            f"{what}: annotation {_ANNOTATION} is not base64 on one line",
            hint="write the value behind the colon, on the same line",
        )
    values = [line["value"] for line in lines if line["value"]]
    names = [""] if len(values) == 1 else [f"annotation {number + 1}" for number in range(len(values))]
    return tuple(
        FoundPolicy(name, _decoded(value.decode(), what, name))
        for name, value in zip(names, values, strict=True)
    )


def _decoded(value: object, what: str, name: str) -> bytes:
    where = f"{what}: policy of {name[:60]!r}" if name else what
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9+/\s]+={0,2}\s*", value):
        raise MalformedInput(f"{where}: ccePolicy is not base64", hint=_GENERATE)
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError:
        raise MalformedInput(f"{where}: ccePolicy is not base64", hint=_GENERATE) from None
