"""Descriptions read: each gives its groups, and knows how policies are put back into it.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.arm import parse_template
from sidecar.policy.arm_groups import template_groups
from sidecar.policy.containers import ContainerGroup, ContainerSpec, SecurityContext
from sidecar.policy.containers_common import Approve
from sidecar.policy.containers_json import parse_config
from sidecar.policy.containers_kubernetes import kubernetes_pods
from sidecar.policy.containers_security import capabilities_of
from sidecar.policy.containers_yaml import read_documents
from sidecar.policy.images_names import PathName, RegistryName, parse_name
from sidecar.policy.inject import inject_template
from sidecar.policy.inject_yaml import inject_yaml
from sidecar.policy.members import JsonObject
from sidecar.policy.parse_containers import parse_container
from sidecar.policy.parse_model import Container
from sidecar.strictjson import as_object, load_json

_ENTRY_DEFAULTS: JsonObject = {
    "allow_stdio_access": True,
    "capabilities": capabilities_of(SecurityContext()).to_json(),
    "command": None,
    "env_rules": [],
    "layers": [],
}


@dataclass(frozen=True, slots=True)
class Source:
    """A description: its bytes, its groups, and what puts a policy for each back; None where nothing does."""

    data: bytes
    groups: tuple[ContainerGroup, ...]
    inject: Callable[[Sequence[str]], bytes] | None = None


def template_source(data: bytes, parameters: Sequence[bytes], approve: Approve) -> Source:
    """An ARM template with its parameters files."""
    found = template_groups(parse_template(data, parameters), approve)

    def inject(encoded: Sequence[str]) -> bytes:
        text = _text(data, "template")
        for (path, _), one in zip(found, encoded, strict=True):
            text = inject_template(text, path, one)
        return text.encode()

    return Source(data, tuple(group for _, group in found), inject)


def yaml_source(data: bytes, approve: Approve) -> Source:
    """Kubernetes objects."""
    text = _text(data, "YAML")
    pods = kubernetes_pods([document.value() for document in read_documents(text, "YAML")], approve)

    def inject(encoded: Sequence[str]) -> bytes:
        edited = text
        for pod, one in zip(pods, encoded, strict=True):
            edited = inject_yaml(edited, pod, one)
        return edited.encode()

    return Source(data, tuple(pod.group for pod in pods), inject)


def config_source(data: bytes) -> Source:
    """A configuration file."""
    return Source(data, (parse_config(data),))


def image_source(names: Iterable[str]) -> Source:
    """Images by themselves, named by their references; a file on this machine by the name it is asked for."""
    specs = []
    for name in names:
        place = parse_name(name)
        if isinstance(place, RegistryName):
            specs.append(ContainerSpec(name, name))
        else:
            shown = place.reference if isinstance(place, PathName) else place.name
            specs.append(ContainerSpec(shown or name, shown or name, archive=name))
    return Source(b"", (ContainerGroup("images", tuple(specs)),))


def parse_entries(texts: Iterable[str]) -> tuple[Container, ...]:
    """Ready entries, one or a list of them in each JSON text; missing members at their defaults.

    Raises:
        MalformedInput: not of the form, or without layers: such an entry admits nothing.
    """
    found: list[Container] = []
    for text in texts:
        value = load_json(text, what="--with-containers")
        for one in value if isinstance(value, list) else [value]:
            members = as_object(one, "--with-containers")
            entry = parse_container(_ENTRY_DEFAULTS | members, "--with-containers")
            if not entry.layers:
                raise MalformedInput(f"--with-containers: {entry.label}: no layers")
            found.append(entry)
    return tuple(found)


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedInput(f"{what}: not UTF-8 at byte {exc.start}") from None
