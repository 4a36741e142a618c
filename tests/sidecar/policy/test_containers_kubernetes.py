"""Kubernetes objects: which pods there are, what their containers are, what is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.policy.containers import ContainerSpec, EnvRule
from sidecar.policy.containers_kubernetes import Pod, kubernetes_pods
from sidecar.policy.containers_yaml import read_documents
from sidecar.policy.generate_sources import yaml_source
from sidecar.policy.members import ExecProcess


def no(question: str) -> bool:
    pytest.fail(question)


def yes(question: str) -> bool:
    return True


def pods(text: str, approve: Any = no) -> list[Pod]:
    return kubernetes_pods([one.value() for one in read_documents(text, "YAML")], approve)


def container(text: str = "", pod: str = "", approve: Any = no, more: str = "") -> ContainerSpec:
    """The one container of a pod: its members, the pod's, and further documents, all in flow style."""
    members = f"name: c, image: i{', ' if text else ''}{text}"
    body = (
        f"kind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{{members}}}]{', ' if pod else ''}{pod}}}\n"
    )
    return pods(body + more, approve)[0].group.containers[0]


KINDS = [
    ("Pod", ()), ("Deployment", ("spec", "template")), ("StatefulSet", ("spec", "template")),
    ("DaemonSet", ("spec", "template")), ("Job", ("spec", "template")), ("ReplicaSet", ("spec", "template")),
    ("CronJob", ("spec", "jobTemplate", "spec", "template")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path"), KINDS)
def test_kinds(kind: str, path: tuple[str, ...]) -> None:
    made: dict[str, Any] = {
        "metadata": {"annotations": {"microsoft.containerinstance.virtualnode.ccepolicy": "old"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "initContainers": [{"image": "j"}]},
    }
    for step in reversed(path):
        made = {step: made}
    text = json.dumps({"kind": "Service"}) + "\n---\n" + json.dumps({"kind": kind, **made})
    (pod,) = pods(text)
    assert (pod.document, pod.path) == (1, path)
    assert [(one.name, one.image) for one in pod.group.containers] == [("c", "i"), ("j", "j")]
    assert pod.group.existing == "old"


def test_commands_expand_what_is_known() -> None:
    spec = container(
        "command: [a, $(A)], args: ['$$(A)', '$(B)$(A)'], env: [{name: A, value: x}, {name: B, value: $(A)y}]"
    )
    assert spec.entrypoint == ("a", "x")
    assert spec.arguments == ("$(A)", "xyx")
    assert spec.env == (EnvRule("A", "A=x"), EnvRule("B", "B=xy"))
    with pytest.raises(MalformedInput, match="refers to 'KUBERNETES_SERVICE_HOST'"):
        container("args: [$(KUBERNETES_SERVICE_HOST)]")


SOURCES = """---
kind: ConfigMap
metadata: {name: m}
data: {a: from map}
binaryData: {b: Yg==}
---
kind: Secret
metadata: {name: s}
data: {c: Yw==}
stringData: {d: d}
"""


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        ("configMapKeyRef: {name: m, key: a}", "A=from map"),
        ("configMapKeyRef: {name: m, key: b}", "A=b"),
        ("secretKeyRef: {name: s, key: c}", "A=c"),
        ("secretKeyRef: {name: s, key: d}", "A=d"),
        ("resourceFieldRef: {resource: limits.cpu}", "A=2"),
        ("resourceFieldRef: {resource: requests.memory}", "A=1Gi"),
        ("fieldRef: {fieldPath: metadata.name}", "^A=.*$"),
    ],
)
def test_values_from_elsewhere(source: str, pattern: str) -> None:
    resources = "resources: {limits: {cpu: 2}, requests: {memory: 1Gi}}"
    spec = container(f"env: [{{name: A, valueFrom: {{{source}}}}}], {resources}", more=SOURCES)
    assert spec.env == (EnvRule("A", pattern, "re2" if pattern[0] == "^" else "string"),)


def test_values_only_the_cluster_knows_are_approved() -> None:
    text = "env: [{name: A, valueFrom: {secretKeyRef: {name: elsewhere, key: k}}}]"
    asked: list[str] = []

    def approve(question: str) -> bool:
        asked.append(question)
        return len(asked) == 1

    assert container(text, approve=approve).env == (EnvRule("A", "^A=.*$", "re2"),)
    assert "'elsewhere'" in asked[0]
    with pytest.raises(MalformedInput, match="not approved"):
        container(text, approve=approve)


def test_the_service_s_placeholder() -> None:
    (rule,) = container("env: [{name: T, value: ===VIRTUALNODE2.CC.THIM.ENDPOINT===}]").env
    assert rule == EnvRule("T", "^T=.*$", "re2")


def test_mounts() -> None:
    spec = container(
        "volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}, "
        "{name: c, mountPath: /c, readOnly: true}]",
        pod="volumes: [{name: a, emptyDir: {}}, {name: b, configMap: {name: x}}, "
        "{name: c, persistentVolumeClaim: {}}]",
    )
    assert [(mount.destination, mount.options[2]) for mount in spec.mounts] == [
        ("/a", "rw"),
        ("/b", "ro"),
        ("/c", "ro"),
    ]
    assert {mount.source for mount in spec.mounts} == {"sandbox:///tmp/atlas/emptydir/.+"}


def test_claim_templates_are_volumes() -> None:
    text = """
kind: StatefulSet
spec:
  volumeClaimTemplates:
  - {metadata: {name: v}, spec: {accessModes: [ReadOnlyMany]}}
  template:
    spec:
      containers:
      - {name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}
"""
    (mount,) = pods(text)[0].group.containers[0].mounts
    assert mount.options[2] == "ro"


def test_workload_identity_and_privileged() -> None:
    text = """
kind: Pod
metadata: {labels: {azure.workload.identity/use: "true"}}
spec:
  containers:
  - {name: c, image: i, env: [{name: AZURE_CLIENT_ID, value: mine}], securityContext: {privileged: true}}
"""
    spec = pods(text)[0].group.containers[0]
    assert [rule.pattern for rule in spec.env] == [
        "AZURE_CLIENT_ID=mine", "AZURE_TENANT_ID=.+", "AZURE_FEDERATED_TOKEN_FILE=.+",
        "AZURE_AUTHORITY_HOST=.+",
    ]  # fmt: skip
    assert [mount.destination for mount in spec.mounts] == [
        "/var/run/secrets/azure/tokens",
        "/sys/fs/cgroup",
        "/sys",
    ]
    untrue = text.replace('"true"', "true")
    assert len(pods(untrue)[0].group.containers[0].env) == 1


def test_the_container_s_context_counts_more_than_the_pod_s() -> None:
    spec = container(
        "securityContext: {runAsUser: 7, capabilities: {add: [SYS_TIME]}}",
        pod="securityContext: {runAsUser: 5, runAsGroup: 6, fsGroup: 8, "
        "seccompProfile: {type: RuntimeDefault}}",
    )
    assert (spec.security.run_as_user, spec.security.run_as_group) == (7, 6)
    assert spec.security.further_groups == (8,)
    assert spec.security.add == ("CAP_SYS_TIME",)


def test_probes_and_hooks() -> None:
    def run(name: str) -> str:
        return f"{{exec: {{command: [{name}]}}}}"

    spec = container(
        f"lifecycle: {{preStop: {run('stop')}, postStart: {run('start')}}}, startupProbe: {run('startup')}, "
        f"readinessProbe: {run('ready')}, livenessProbe: {{httpGet: {{path: /}}}}"
    )
    assert spec.exec_processes == tuple(ExecProcess((one,)) for one in ("ready", "startup", "start", "stop"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "no pod"),
        ("- a", "an array, wanted an object"),
        ("kind: Pod\nspec: {containers: []}", "no containers"),
        ("kind: Pod\nspec: {containers: [{name: c}]}", "no image"),
        ("kind: Pod\nspec: {containers: [x]}", "a string, wanted an object"),
        (
            "kind: List\nitems: [{kind: Pod, spec: {containers: [{image: i}]}}]",
            "kind 'List' holds containers",
        ),
        (
            "kind: Rollout\nspec: {template: {spec: {containers: [{image: i}]}}}",
            "kind 'Rollout' holds containers",
        ),
    ],
)
def test_refused_documents(text: str, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        pods(text)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("envFrom: [{configMapRef: {name: m}}]", "envFrom is not supported"),
        ("env: [{value: x}]", "without a name"),
        ("env: [{name: A, value: yes}]", "true or false, wanted a string"),
        ("env: [{name: A, value: 1}]", "a number, wanted a string"),
        ("env: [{name: A, value: 0755}]", "read differently by different readers"),
        ("env: [{name: A, value: 12:30}]", "read differently by different readers"),
        ("env: [{name: A, value: y}]", "read differently by different readers"),
        ("env: [{name: A, value: 2026-11-25}]", "read differently by different readers"),
        ("env: [{name: A, valueFrom: {fileKeyRef: {}}}]", "'fileKeyRef' is not supported"),
        ("env: [{name: A, valueFrom: {fieldRef: {}, secretKeyRef: {}}}]", "2 members"),
        ("env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]", "sets no limits.cpu"),
        ("env: [{name: A, valueFrom: {resourceFieldRef: {resource: cpu}}}]", "wanted limits.NAME"),
        (
            "env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, containerName: other}}}]",
            "another container",
        ),
        (
            "env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}]",
            "divisor is not supported",
        ),
        ("env: [{name: A, value: $(B)}]", "refers to 'B'"),
        ("volumeMounts: [{name: v, mountPath: /v}]", "declares no such volume"),
        ("volumeDevices: [{name: v, devicePath: /dev/x}]", "volumeDevices"),
        ("command: sh", "a string, wanted an array"),
        ("command: [1]", "item 0 of 'command' is a number"),
        ("livenessProbe: {exec: {}}", "exec without a command"),
        ("securityContext: {runAsUser: 0777}", "read differently"),
        ("securityContext: {capabilities: {drop: [FLYING]}}", "'FLYING'"),
    ],
)
def test_refused_members(members: str, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        container(members, approve=yes)


@pytest.mark.parametrize("pod", ["nodeSelector: {kubernetes.io/os: windows}", "os: {name: windows}"])
def test_windows_is_refused(pod: str) -> None:
    with pytest.raises(MalformedInput, match="runs on Windows"):
        container(pod=pod)


def test_subpath_expressions_are_refused() -> None:
    with pytest.raises(MalformedInput, match="subPathExpr"):
        container("volumeMounts: [{name: v, mountPath: /v, subPathExpr: $(A)}]", pod="volumes: [{name: v}]")


def test_expansion_is_bounded() -> None:
    variables = ["{name: V0, value: " + "x" * 64 + "}"]
    variables += [
        f"{{name: V{at}, value: $(V{at - 1})$(V{at - 1})$(V{at - 1})$(V{at - 1})}}" for at in range(1, 12)
    ]
    with pytest.raises(MalformedInput, match="a value of over"):
        container(f"env: [{', '.join(variables)}]")


KEYS = st.sampled_from(
    re.findall(
        r"\S+",
        """
        kind metadata name labels annotations spec template jobTemplate containers initContainers image
        command args env value valueFrom configMapKeyRef secretKeyRef resourceFieldRef fieldRef resource key
        volumes volumeMounts mountPath volumeClaimTemplates accessModes securityContext runAsUser capabilities
        add livenessProbe lifecycle preStop exec data stringData resources limits cpu nodeSelector os
        """,
    )
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.sampled_from(["Pod", "Deployment", "ConfigMap", "Secret", "c", "/x", "$(c)", "YQ==", "limits.cpu"])
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=30,
)


@settings(deadline=None)
@given(
    st.dictionaries(KEYS, ANYTHING, max_size=5),
    st.dictionaries(KEYS, ANYTHING, max_size=5),
    st.dictionaries(KEYS, ANYTHING, max_size=5),
)
def test_any_objects_have_pods_or_a_typed_error(
    document: dict[str, Any], spec: dict[str, Any], container: dict[str, Any]
) -> None:
    pod = {
        "kind": "Pod",
        **document,
        "spec": {"containers": [{"name": "c", "image": "i", **container}], **spec},
    }
    text = "\n---\n".join(json.dumps(one, indent=1) for one in (document, pod))
    try:
        source = yaml_source(text.encode(), yes)
    except MalformedInput:
        return
    assert source.inject is not None
    after = source.inject(["cGFja2FnZQ=="] * len(source.groups))
    again = yaml_source(after, yes)
    assert [one.existing for one in again.groups] == ["cGFja2FnZQ=="] * len(source.groups)
    assert [one.containers for one in again.groups] == [one.containers for one in source.groups]
