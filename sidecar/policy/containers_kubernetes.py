"""Pods of Kubernetes objects, as virtual nodes on Azure Container Instances run them.

Rules: what is not understood is refused by name: `envFrom`, kinds that hold a pod and are not known, lists of
objects, `$(NAME)` of a variable that is not known. A variable whose value only the cluster knows may have any
value, if that is approved.

Spec: Kubernetes API, PodSpec v1 and the workload kinds; virtual nodes on Azure Container Instances.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.arm_values import find, find_bool, find_list, find_object, find_text, find_words, kind
from sidecar.policy.containers import (
    ContainerGroup,
    ContainerSpec,
    EnvRule,
    Mount,
    Scenario,
    check_names,
    check_path,
)
from sidecar.policy.containers_common import Approve, exec_action
from sidecar.policy.containers_defaults import (
    VN2_PRIVILEGED_MOUNTS,
    WORKLOAD_IDENTITY_ENV,
    WORKLOAD_IDENTITY_MOUNTS,
    mount,
)
from sidecar.policy.containers_kubenv import Sources, expanded, parse_env, parse_sources
from sidecar.policy.containers_security import parse_security
from sidecar.policy.members import ExecProcess, JsonObject

POLICY_ANNOTATION = "microsoft.containerinstance.virtualnode.ccepolicy"
_WORKLOAD_IDENTITY_LABEL = "azure.workload.identity/use"
# Kind -> where its pod is: an object with `metadata` and `spec`.
_PODS: dict[str, tuple[str, ...]] = {
    "Pod": (),
    "PodTemplate": ("template",),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
_READ_ONLY_VOLUMES = {"configmap", "secret", "downwardapi", "projected"}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of one document: its place there, and the group it makes."""

    document: int
    path: tuple[str, ...]
    group: ContainerGroup


def kubernetes_pods(documents: Sequence[object], approve: Approve) -> list[Pod]:
    """Every pod of a YAML stream.

    Args:
        documents: the stream's documents as plain values.
        approve: asked for every variable whose value only the cluster knows.

    Raises:
        MalformedInput: no pod, or something in one that is not understood.
    """
    objects = [_as_object(one, f"document {number}") for number, one in enumerate(documents)]
    sources = parse_sources(objects)
    pods = []
    for number, one in enumerate(objects):
        named = find_text(one, "kind", f"document {number}") or ""
        if named in _PODS:
            pods.append(Pod(number, _PODS[named], _group(one, named, sources, approve)))
        elif _holds_pod(one):
            raise MalformedInput(
                f"document {number}: kind {named!r} holds containers and is not known here",
                hint=f"known are {', '.join(_PODS)}",
            )
    if not pods:
        raise MalformedInput("YAML: no pod", hint=f"wanted one of {', '.join(_PODS)}")
    return pods


def _as_object(value: object, what: str) -> JsonObject:
    if not isinstance(value, dict):
        raise MalformedInput(f"{what}: is {kind(value)}, wanted an object")
    return value


def _holds_pod(root: object) -> bool:
    pending = [root]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            containers = value.get("containers")
            if isinstance(containers, list) and any(
                isinstance(one, dict) and "image" in one for one in containers
            ):
                return True
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return False


def _group(resource: JsonObject, named: str, sources: Sources, approve: Approve) -> ContainerGroup:
    own_name = find_text(find_object(resource, "metadata", named), "name", named) or "without a name"
    what = f"{named} {own_name!r}"
    pod = resource
    for step in _PODS[named]:
        pod = find_object(pod, step, what)
    metadata, spec = find_object(pod, "metadata", what), find_object(pod, "spec", what)
    labels = find_object(metadata, "labels", what)
    identity = labels.get(_WORKLOAD_IDENTITY_LABEL) == "true"
    volumes = _read_only_volumes(spec, resource, what)
    both = find_list(spec, "containers", what) + find_list(spec, "initContainers", what)
    selector = find_object(spec, "nodeSelector", what)
    if "windows" in (selector.get("kubernetes.io/os"), find_object(spec, "os", what).get("name")):
        raise MalformedInput(f"{what}: runs on Windows", hint="policies are made for Linux containers")
    context = find_object(spec, "securityContext", what)
    containers = [
        _container(_as_object(one, f"{what}: container"), context, volumes, sources, identity, approve)
        for one in both
    ]
    return ContainerGroup(
        name=what,
        containers=check_names(containers, what),
        scenario=Scenario.VN2,
        existing=find_text(find_object(metadata, "annotations", what), POLICY_ANNOTATION, what) or "",
    )


def _read_only_volumes(spec: JsonObject, resource: JsonObject, what: str) -> dict[str, bool]:
    """Volume name -> whether nothing can be written to it."""
    found: dict[str, bool] = {}
    for value in find_list(spec, "volumes", what):
        volume = _as_object(value, f"{what}: volume")
        kinds = {name.lower() for name in volume}
        found[find_text(volume, "name", what) or ""] = bool(kinds & _READ_ONLY_VOLUMES)
    claims = find_list(find_object(resource, "spec", what), "volumeClaimTemplates", what)
    for value in claims:
        claim = _as_object(value, f"{what}: volume claim template")
        name = find_text(find_object(claim, "metadata", what), "name", what) or ""
        found[name] = "ReadOnlyMany" in find_words(find_object(claim, "spec", what), "accessModes", what)
    return found


def _container(
    container: JsonObject,
    pod_context: JsonObject,
    volumes: Mapping[str, bool],
    sources: Sources,
    identity: bool,
    approve: Approve,
) -> ContainerSpec:
    image = find_text(container, "image", "container")
    name = find_text(container, "name", "container") or image
    what = f"container {name!r}"
    if not image or not name:
        raise MalformedInput(f"{what}: no image")
    if find_list(container, "volumeDevices", what):
        raise MalformedInput(f"{what}: volumeDevices are not supported", hint="no policy can admit a device")
    security = parse_security(_merged_context(pod_context, container, what), what)
    env = parse_env(container, sources, approve, what)
    command, arguments = (
        tuple(expanded(word, env, f"{what}: {name_of}") for word in find_words(container, name_of, what))
        for name_of in ("command", "args")
    )
    return ContainerSpec(
        name=name,
        image=image,
        entrypoint=command or None,
        arguments=arguments,
        env=_with_identity(env) if identity else env,
        mounts=(WORKLOAD_IDENTITY_MOUNTS if identity else ())
        + _mounts(container, volumes, what)
        + (VN2_PRIVILEGED_MOUNTS if security.privileged else ()),
        exec_processes=_exec_processes(container, what),
        security=security,
        working_dir=find_text(container, "workingDir", what),
    )


def _with_identity(env: tuple[EnvRule, ...]) -> tuple[EnvRule, ...]:
    taken = {rule.name for rule in env}
    return env + tuple(rule for rule in WORKLOAD_IDENTITY_ENV if rule.name not in taken)


def _merged_context(pod: JsonObject, container: JsonObject, what: str) -> JsonObject:
    """The pod's security context; the container's own members count more."""
    own = find_object(container, "securityContext", what)
    taken = {name.lower() for name in own}
    return {name: value for name, value in pod.items() if name.lower() not in taken} | own


def _mounts(container: JsonObject, volumes: Mapping[str, bool], what: str) -> tuple[Mount, ...]:
    found = []
    for value in find_list(container, "volumeMounts", what):
        one = _as_object(value, f"{what}: volume mount")
        name, path = find_text(one, "name", what), find_text(one, "mountPath", what)
        where = f"{what}: mount of volume {name!r}"
        if name not in volumes or name is None:
            raise MalformedInput(f"{where}: the pod declares no such volume")
        if not path:
            raise MalformedInput(f"{where}: no mountPath")
        if find(one, "subPathExpr", where) is not None:
            raise MalformedInput(f"{where}: subPathExpr is not supported")
        read_only = volumes[name] or find_bool(one, "readOnly", where) or False
        found.append(mount("emptyDir", check_path(path, where), read_only=read_only))
    return tuple(found)


def _exec_processes(container: JsonObject, what: str) -> tuple[ExecProcess, ...]:
    lifecycle = find_object(container, "lifecycle", what)
    actions = [(name, container) for name in ("livenessProbe", "readinessProbe", "startupProbe")]
    actions += [(name, lifecycle) for name in ("postStart", "preStop")]
    found = []
    for name, holder in actions:
        process = exec_action(find_object(holder, name, what), f"{what}: {name}")
        if process is not None:
            found.append(process)
    return tuple(found)
