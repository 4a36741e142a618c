"""Descriptions read: each gives its groups, and knows how policies are put back into it.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.arm import parse_template
from sidecar.policy.arm_groups import template_groups
from sidecar.policy.arm_values import find_list
from sidecar.policy.containers import ContainerEntry, ContainerGroup, ContainerSpec, JsonObject
from sidecar.policy.containers_common import Approve, parse_import
from sidecar.policy.containers_json import parse_config
from sidecar.policy.containers_kubernetes import kubernetes_pods
from sidecar.policy.containers_yaml import read_documents
from sidecar.policy.inject import inject_template
from sidecar.policy.inject_yaml import inject_yaml
from sidecar.strictjson import load_object


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
    """Images by themselves, named by their references."""
    specs = tuple(ContainerSpec(name, name) for name in names)
    return Source(b"", (ContainerGroup("images", specs),))


def parse_imports(data: bytes) -> tuple[JsonObject, ...]:
    """The imports of a fragments file: members `fragments` and `standaloneFragments`."""
    body = load_object(data, what="fragments file")
    found = [
        parse_import(one, f"fragments file: {name} {number}")
        for name in ("fragments", "standaloneFragments")
        for number, one in enumerate(find_list(body, name, "fragments file"))
    ]
    if not found:
        raise MalformedInput("fragments file: no imports", hint='wanted {"fragments": [...]}')
    return tuple(found)


def parse_entries(texts: Iterable[str]) -> tuple[ContainerEntry, ...]:
    """Ready entries, missing members at their defaults."""
    if list(texts):
        raise MalformedInput("--with-containers: not there yet")
    return ()


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedInput(f"{what}: not UTF-8 at byte {exc.start}") from None
