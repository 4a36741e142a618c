"""Container groups of an ARM template.

Rules: only what goes into a policy is read. A variable whose value only the deployment knows may have any
value, if that is approved; anything else that is not known is an error. A group inside a nested deployment or
a loop over resources is refused: no policy could be injected for it.

Spec: Azure resource reference, Microsoft.ContainerInstance/containerGroups and containerGroupProfiles.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.errors import MalformedInput
from sidecar.policy.arm import Template
from sidecar.policy.arm_parts import Part
from sidecar.policy.arm_values import KnownLater, find, kind
from sidecar.policy.containers import (
    ContainerGroup,
    ContainerSpec,
    EnvRule,
    Mount,
    check_names,
    check_path,
    literal_env,
    wildcard_env,
)
from sidecar.policy.containers_common import Approve, approved, exec_action, is_thim_placeholder, parse_import
from sidecar.policy.containers_defaults import CONFIG_MAP_MOUNT, MOUNT_SOURCES, mount
from sidecar.policy.containers_security import parse_security
from sidecar.policy.members import ExecProcess
from sidecar.strictjson import JsonObject

GROUP_TYPES = (
    "microsoft.containerinstance/containergroups",
    "microsoft.containerinstance/containergroupprofiles",
)
ResourcePath = tuple[str | int, ...]


def template_groups(template: Template, approve: Approve) -> list[tuple[ResourcePath, ContainerGroup]]:
    """Every container group of the template, with the path of its resource.

    Raises:
        MalformedInput: no group, or something in one that is not understood.
    """
    found = []
    for path, resource in _resources(template.body):
        part = Part(template, resource, f"resource {path[-1]}")
        kind_of = part.text("type") if _named(resource, "type") else None
        if (kind_of or "").lower() in GROUP_TYPES:
            if _condition(part):
                found.append((path, _group(part, resource, approve)))
        else:
            _refuse_nested(resource, part.what)
    if not found:
        raise MalformedInput(
            "template: no container group", hint=f"wanted a resource of type {GROUP_TYPES[0]} or a profile"
        )
    return found


def _named(resource: object, name: str) -> bool:
    return isinstance(resource, dict) and find(resource, name, "resource") is not None


def _resources(body: JsonObject) -> Iterator[tuple[ResourcePath, object]]:
    """Resources of a template: a list, or an object by symbolic name in language version 2.0."""
    key = next((name for name in body if name.lower() == "resources"), "resources")
    resources = body.get(key)
    if isinstance(resources, list):
        yield from (((key, number), one) for number, one in enumerate(resources))
    elif isinstance(resources, dict):
        yield from (((key, name), one) for name, one in resources.items())
    else:
        raise MalformedInput(f"template: member 'resources' is {kind(resources)}, wanted an array")


def _refuse_nested(root: object, what: str) -> None:
    pending = [root]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            named = find(value, "type", what)
            if isinstance(named, str) and named.lower() in GROUP_TYPES:
                raise MalformedInput(
                    f"{what}: a container group inside of another resource",
                    hint="generate from the nested template itself",
                )
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def _condition(part: Part) -> bool:
    """Whether the resource is deployed: not one that is there already, or whose condition is false."""
    return part.truth("condition") is not False and not part.truth("existing")


def _group(part: Part, resource: object, approve: Approve) -> ContainerGroup:
    if isinstance(resource, dict) and isinstance(find(resource, "copy", part.what), dict):
        raise MalformedInput(f"{part.what}: a container group in a loop", hint="write its groups one by one")
    name = _group_name(part)
    part = Part(part.template, resource, f"group {name!r}")
    properties = part.member("properties", part.what)
    if properties is None:
        raise MalformedInput(f"{part.what}: member 'properties' is missing")
    if (properties.text("osType") or "").lower() == "windows":
        raise MalformedInput(f"{part.what}: osType Windows", hint="policies are made for Linux containers")
    volumes = _volumes(properties)
    both = [*properties.members("containers"), *properties.members("initContainers")]
    confidential = properties.member("confidentialComputeProperties")
    standalone = confidential.members("standaloneFragments") if confidential is not None else []
    fragments = [one.value() for one in standalone]
    return ContainerGroup(
        name=name,
        containers=check_names((_container(one, volumes, approve) for one in both), part.what),
        existing=_existing(confidential) if confidential is not None else "",
        imports=tuple(
            parse_import(one, f"{part.what}: standaloneFragments")
            for one in fragments
            if not isinstance(one, str)
        ),
        standalone=tuple(one for one in fragments if isinstance(one, str)),
        default_fragment=_default_fragment(part),
    )


def _existing(confidential: Part) -> str:
    """The policy that the group carries; an expression without a value yet stands for itself."""
    try:
        return confidential.text("ccePolicy") or ""
    except KnownLater as later:
        return f"[{later}]"


def _group_name(part: Part) -> str:
    """The group's name; one that only the deployment knows is named by its place."""
    try:
        return part.text("name") or part.what
    except KnownLater:
        return part.what


def _default_fragment(part: Part) -> bool | None:
    """False where a tag asks for a group without the service's own containers."""
    tags = part.member("tags")
    zero = tags.truth("Annotate-zero-sidecar") if tags is not None else None
    return False if zero else None


def _volumes(properties: Part) -> dict[str, str]:
    """Volume name -> kind."""
    found: dict[str, str] = {}
    for part in properties.members("volumes"):
        name = part.text("name")
        kinds = [one for one in MOUNT_SOURCES if one.lower() in part.names()]
        if not name:
            raise MalformedInput(f"{part.what}: member 'name' is missing")
        if name in found:
            raise MalformedInput(f"volume {name!r}: declared twice")
        if len(kinds) != 1:
            raise MalformedInput(
                f"volume {name!r}: is of {len(kinds)} known kinds, wanted one of {', '.join(MOUNT_SOURCES)}"
            )
        found[name] = kinds[0]
    return found


def _container(part: Part, volumes: dict[str, str], approve: Approve) -> ContainerSpec:
    name = part.text("name")
    if not name:
        raise MalformedInput(f"{part.what}: member 'name' is missing")
    what = f"container {name!r}"
    properties = part.member("properties", what)
    image = properties.text("image") if properties is not None else None
    if properties is None or not image:
        raise MalformedInput(f"{what}: no image")
    context = properties.member("securityContext")
    return ContainerSpec(
        name=name,
        image=image,
        entrypoint=properties.words("command") or None,
        env=tuple(_env(one, what, approve) for one in properties.members("environmentVariables")),
        mounts=_mounts(properties, volumes, what),
        exec_processes=_probes(properties, what),
        security=parse_security(context.as_object() if context is not None else {}, what),
    )


def _env(part: Part, what: str, approve: Approve) -> EnvRule:
    name = part.text("name")
    if not name:
        raise MalformedInput(f"{part.what}: member 'name' is missing")
    try:
        value = part.text("value")
        value = part.text("secureValue") if value is None else value
    except KnownLater as later:
        approved(
            approve,
            f"{what}: environment variable {name!r}: {later}; may it be anything?",
            f"{what}: {later}",
        )
        return wildcard_env(name, what)
    if value is None:
        raise MalformedInput(f"{what}: environment variable {name!r} has no value")
    if is_thim_placeholder(name, value):
        return wildcard_env(name, what)
    return literal_env(name, value, what)


def _mounts(properties: Part, volumes: dict[str, str], what: str) -> tuple[Mount, ...]:
    found = []
    for part in properties.members("volumeMounts"):
        name, path = part.text("name"), part.text("mountPath")
        if not name or name not in volumes:
            raise MalformedInput(f"{what}: volume {name!r} is not declared by its group")
        if not path:
            raise MalformedInput(f"{what}: mount of volume {name!r} has no mountPath")
        where = f"{what}: mount of volume {name!r}"
        found.append(mount(volumes[name], check_path(path, where), read_only=part.truth("readOnly") or False))
    if properties.member("configMap") is not None:
        found.append(CONFIG_MAP_MOUNT)
    return tuple(found)


def _probes(properties: Part, what: str) -> tuple[ExecProcess, ...]:
    found = []
    for name in ("readinessProbe", "livenessProbe"):
        part = properties.member(name)
        process = exec_action(part.as_object(), f"{what}: {name}") if part is not None else None
        if process is not None:
            found.append(process)
    return tuple(found)
