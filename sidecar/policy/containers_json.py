"""The configuration file of `--input`: containers with all that a policy needs, in JSON.

Spec: confcom, "JSON config file format" version 1.0; the flat format before it.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.arm import without_mark
from sidecar.policy.arm_values import find, find_bool, find_list, find_object, find_text, find_words, kind
from sidecar.policy.containers import (
    ContainerGroup,
    ContainerSpec,
    EnvRule,
    Mount,
    Scenario,
    check_names,
    check_path,
    literal_env,
    pattern_env,
)
from sidecar.policy.containers_common import exec_action, is_thim_placeholder, parse_import
from sidecar.policy.containers_defaults import (
    CONFIG_MAP_MOUNT,
    MOUNT_SOURCES,
    RO,
    RW,
    VN2_PRIVILEGED_MOUNTS,
    WORKLOAD_IDENTITY_ENV,
    WORKLOAD_IDENTITY_MOUNTS,
)
from sidecar.policy.containers_security import parse_security
from sidecar.policy.members import ExecProcess, JsonObject
from sidecar.strictjson import as_object, load_object

_MAX_CONFIG = 4 << 20
_IDENTITY_LABEL = "azure.workload.identity/use"


@dataclass(frozen=True, slots=True)
class _Place:
    """What a container's rules depend on beside itself."""

    scenario: Scenario
    identity: bool


def parse_config(data: bytes) -> ContainerGroup:
    """Read a configuration file.

    Raises:
        MalformedInput: not of the format; the flat format of before 1.0; nothing to admit.
    """
    body = load_object(without_mark(data), what="configuration", max_bytes=_MAX_CONFIG)
    flat = is_flat(body)
    if flat:
        body = body | {
            "containers": [_unflattened(one) for one in find_list(body, "containers", "configuration")]
        }
    place = _Place(_scenario(body), _identity(body))
    containers = [_container(one, place) for one in find_list(body, "containers", "configuration")]
    imports = [
        parse_import(one, f"configuration: {name} {number}")
        for name in ("fragments", "standaloneFragments")
        for number, one in enumerate(find_list(body, name, "configuration"))
    ]
    if not imports:
        check_names(containers, "configuration")
    return ContainerGroup(
        name="configuration",
        containers=tuple(containers),
        scenario=place.scenario,
        imports=tuple(imports),
        default_fragment_last=True,
        notes=("configuration: the flat format of before version 1.0 is deprecated",) if flat else (),
    )


def is_flat(body: JsonObject) -> bool:
    """Whether a configuration is in the format of before version 1.0: a container names its image itself."""
    containers = find_list(body, "containers", "configuration")
    return any(
        isinstance(one, dict) and find(one, "containerImage", "container") is not None for one in containers
    )


def _unflattened(value: object) -> JsonObject:
    """A container of the flat format in the form of version 1.0."""
    flat = as_object(value, "configuration: a container of the flat format")
    image = find_text(flat, "containerImage", "container")
    what = f"container {image!r}"
    context = find_object(flat, "securityContext", what)
    if find_bool(flat, "allow_elevated", what):
        context = context | {"privileged": True}
    variables = [
        {name: member for name, member in one.items() if name != "strategy"}
        | {"regex": find_text(one, "strategy", what) == "re2"}
        for one in _objects(flat, "environmentVariables", what)
    ]
    mounts = [
        {"readOnly": find_bool(one, "readonly", what) or False}
        | {name: member for name, member in one.items() if name.lower() != "readonly"}
        for one in _objects(flat, "mounts", what)
    ]
    kept = ("command", "workingDir", "execProcesses", "livenessProbe", "readinessProbe", "configMap")
    return {
        "name": find_text(flat, "name", what) or image,
        "properties": {name: find(flat, name, what) for name in kept}
        | {
            "image": image,
            "environmentVariables": variables,
            "volumeMounts": mounts,
            "securityContext": context,
        },
    }


def _scenario(body: JsonObject) -> Scenario:
    text = (find_text(body, "scenario", "configuration") or "aci").lower()
    if text not in tuple(Scenario):
        raise MalformedInput(f"configuration: scenario {text[:40]!r}, wanted aci or vn2")
    return Scenario(text)


def _identity(body: JsonObject) -> bool:
    labels = find_object(body, "labels", "configuration")
    return find_bool(labels, _IDENTITY_LABEL, "configuration: labels") or False


def _container(value: object, place: _Place) -> ContainerSpec:
    if not isinstance(value, dict):
        raise MalformedInput(f"configuration: a container is {kind(value)}, wanted an object")
    properties = find_object(value, "properties", "container")
    image = find_text(properties, "image", "container")
    name = find_text(value, "name", "container") or image
    what = f"container {name!r}"
    if not image or not name:
        raise MalformedInput(f"{what}: no image")
    security = parse_security(find_object(properties, "securityContext", what), what)
    vn2 = place.scenario is Scenario.VN2
    working_dir = find_text(properties, "workingDir", what)
    return ContainerSpec(
        name=name,
        image=image,
        entrypoint=find_words(properties, "command", what) or None,
        env=(WORKLOAD_IDENTITY_ENV if vn2 and place.identity else ()) + _env(properties, what),
        mounts=_mounts(properties, what)
        + (VN2_PRIVILEGED_MOUNTS if vn2 and security.privileged else ())
        + (WORKLOAD_IDENTITY_MOUNTS if vn2 and place.identity else ()),
        exec_processes=_exec_processes(properties, what),
        security=security,
        working_dir=check_path(working_dir, f"{what}: workingDir") if working_dir else None,
        archive=find_text(value, "path", what),
    )


def _env(properties: JsonObject, what: str) -> tuple[EnvRule, ...]:
    rules = []
    for one in _objects(properties, "environmentVariables", what):
        name = find_text(one, "name", what)
        value = find_text(one, "value", what)
        value = find_text(one, "secureValue", what) if value is None else value
        if not name or value is None:
            raise MalformedInput(f"{what}: environment variable {name!r} without name or value")
        if find_bool(one, "regex", what):
            rules.append(pattern_env(name, value, what))
        elif is_thim_placeholder(name, value):
            rules.append(pattern_env(name, ".*", what))
        else:
            rules.append(literal_env(name, value, what))
    return tuple(rules)


def _mounts(properties: JsonObject, what: str) -> tuple[Mount, ...]:
    found = []
    for one in _objects(properties, "volumeMounts", what):
        kind_of, path = find_text(one, "mountType", what), find_text(one, "mountPath", what)
        where = f"{what}: mount of volume {find_text(one, 'name', what)!r}"
        if kind_of not in MOUNT_SOURCES or kind_of is None:
            raise MalformedInput(f"{where}: mountType {kind_of!r}, wanted one of {', '.join(MOUNT_SOURCES)}")
        if not path:
            raise MalformedInput(f"{where}: no mountPath")
        options = find_words(one, "options", where) or (RO if find_bool(one, "readOnly", where) else RW)
        found.append(Mount(check_path(path, where), MOUNT_SOURCES[kind_of], options))
    if find(properties, "configMap", what) is not None:
        found.append(CONFIG_MAP_MOUNT)
    return tuple(found)


def _exec_processes(properties: JsonObject, what: str) -> tuple[ExecProcess, ...]:
    found = []
    for one in _objects(properties, "execProcesses", what):
        command = find_words(one, "command", f"{what}: execProcesses")
        if not command:
            raise MalformedInput(f"{what}: execProcesses: a process without a command")
        found.append(ExecProcess(command, _signals(one, what)))
    for name in ("readinessProbe", "livenessProbe"):
        process = exec_action(find_object(properties, name, what), f"{what}: {name}")
        if process is not None:
            found.append(process)
    return tuple(found)


def _signals(process: JsonObject, what: str) -> tuple[int, ...]:
    signals = []
    for one in find_list(process, "signals", what):
        if not isinstance(one, int) or isinstance(one, bool) or not 1 <= one <= 64:
            raise MalformedInput(f"{what}: execProcesses: signals, wanted numbers from 1 to 64")
        signals.append(one)
    return tuple(signals)


def _objects(properties: JsonObject, name: str, what: str) -> list[JsonObject]:
    found = []
    for one in find_list(properties, name, what):
        if not isinstance(one, dict):
            raise MalformedInput(f"{what}: {name}: {kind(one)}, wanted an object")
        found.append(one)
    return found
