"""The configuration file of --input."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.policy.containers import ContainerSpec, EnvRule, Mount, Scenario
from sidecar.policy.containers_json import parse_config
from sidecar.policy.generate import GenerateOptions, generate
from sidecar.policy.image import ImageConfig, ResolvedImage
from sidecar.policy.members import ExecProcess

IMPORT = {"feed": "f", "issuer": "did:x509:x", "includes": ["containers"], "minimum_svn": "1"}


def config(properties: dict[str, Any] | None = None, **members: Any) -> bytes:
    container = {"name": "c", "properties": {"image": "i", **(properties or {})}}
    return json.dumps({"version": "1.0", "containers": [container], **members}).encode()


def first(properties: dict[str, Any] | None = None, **members: Any) -> ContainerSpec:
    return parse_config(config(properties, **members)).containers[0]


def test_a_whole_container() -> None:
    spec = first(
        {
            "command": ["run"],
            "workingDir": "/w",
            "environmentVariables": [
                {"name": "A", "value": "1"},
                {"name": "B", "secureValue": "2"},
                {"name": "C", "value": "x|y", "regex": True},
            ],
            "volumeMounts": [
                {"name": "v", "mountPath": "/m", "mountType": "azureFile", "readOnly": True},
                {"name": "w", "mountPath": "/n", "mountType": "emptyDir", "options": ["rbind", "rw"]},
            ],
            "execProcesses": [{"command": ["ps"], "signals": [9]}],
            "livenessProbe": {"exec": {"command": ["live"]}},
            "readinessProbe": {"exec": {"command": ["ready"]}},
            "securityContext": {"privileged": True, "runAsUser": 5},
        }
    )
    assert spec.entrypoint == ("run",)
    assert spec.working_dir == "/w"
    assert spec.env == (EnvRule("A", "A=1"), EnvRule("B", "B=2"), EnvRule("C", "^C=(?:x|y)$", "re2"))
    assert spec.mounts == (
        Mount("/m", "sandbox:///tmp/atlas/azureFileVolume/.+", ("rbind", "rshared", "ro")),
        Mount("/n", "sandbox:///tmp/atlas/emptydir/.+", ("rbind", "rw")),
    )
    assert spec.exec_processes == (
        ExecProcess(("ps",), (9,)),
        ExecProcess(("ready",)),
        ExecProcess(("live",)),
    )
    assert spec.security.privileged
    assert spec.security.run_as_user == 5


def test_virtual_nodes() -> None:
    labels = {"azure.workload.identity/use": True}
    context = {"securityContext": {"privileged": True}, "environmentVariables": [{"name": "A", "value": "1"}]}
    spec = first(context, scenario="VN2", labels=labels)
    assert [rule.name for rule in spec.env][-2:] == ["AZURE_AUTHORITY_HOST", "A"]
    assert [mount.destination for mount in spec.mounts] == [
        "/sys/fs/cgroup",
        "/sys",
        "/var/run/secrets/azure/tokens",
    ]
    assert parse_config(config(scenario="vn2")).scenario is Scenario.VN2
    assert first(context, labels=labels).mounts == ()


def test_imports_stand_before_the_default_one() -> None:
    group = parse_config(
        config(fragments=[IMPORT], standaloneFragments=[{**IMPORT, "feed": "g", "path": "p"}])
    )
    image = ResolvedImage(ImageConfig(), ("ab" * 32,))
    made = generate(group, {"i": image}, GenerateOptions(infrastructure_svn="9"))
    assert [(one["feed"], one["minimum_svn"]) for one in made.fragments] == [
        ("f", "1"),
        ("g", "1"),
        ("mcr.microsoft.com/aci/aci-cc-infra-fragment", "9"),
    ]


def test_fragments_without_containers() -> None:
    made = generate(parse_config(json.dumps({"fragments": [IMPORT]}).encode()), {}, GenerateOptions())
    assert [one.to_json()["name"] for one in made.containers] == ["pause-container"]


def test_the_infrastructure_s_feed_twice() -> None:
    infrastructure = {**IMPORT, "feed": "mcr.microsoft.com/aci/aci-cc-infra-fragment"}
    group = parse_config(config(fragments=[infrastructure]))
    image = ResolvedImage(ImageConfig(), ("ab" * 32,))
    with pytest.raises(MalformedInput, match="beside the default one"):
        generate(group, {"i": image}, GenerateOptions())
    made = generate(group, {"i": image}, GenerateOptions(default_fragment=False))
    assert len(made.fragments) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "an array, wanted an object"),
        (b"{}", "no containers"),
        (b'{"containers": [], "containers": []}', "twice"),
        (b'{"containers": [1]}', "a number, wanted an object"),
        (b'{"containers": [{"containerImage": "i"}, 1]}', "flat format"),
        (b'{"containers": [{"name": "c"}]}', "no image"),
        (config(scenario="kata"), "scenario 'kata'"),
        (config({"environmentVariables": [{"name": "A"}]}), "without name or value"),
        (
            config({"environmentVariables": [{"name": "A", "value": "(", "regex": True}]}),
            "not one RE2 pattern",
        ),
        (config({"volumeMounts": [{"name": "v", "mountPath": "/m", "mountType": "nfs"}]}), "mountType 'nfs'"),
        (config({"volumeMounts": [{"name": "v", "mountType": "secret"}]}), "no mountPath"),
        (config({"volumeMounts": [{"mountPath": "m", "mountType": "secret"}]}), "wanted an absolute path"),
        (config({"workingDir": "w"}), "wanted an absolute path"),
        (config({"execProcesses": [{"signals": [1]}]}), "without a command"),
        (config({"execProcesses": [{"command": ["a"], "signals": ["TERM"]}]}), "wanted numbers"),
        (config(fragments=[{**IMPORT, "minimum_svn": 1}]), "minimum_svn"),
        (config(fragments=[{**IMPORT, "includes": ["all"]}]), "includes"),
        (config(fragments=[{**IMPORT, "extra": 1}]), "extra"),
        (config(fragments=["x"]), "wanted an object"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_config(data)


def test_the_flat_format_is_read_with_a_note() -> None:
    flat = {
        "containerImage": "i:1",
        "command": ["run"],
        "environmentVariables": [
            {"name": "A", "value": "1", "strategy": "string"},
            {"name": "B", "value": "x+", "strategy": "re2"},
        ],
        "mounts": [{"mountType": "azureFile", "mountPath": "/m", "readonly": True}],
        "allow_elevated": True,
        "workingDir": "/w",
        "livenessProbe": {"exec": {"command": ["live"]}},
    }
    group = parse_config(json.dumps({"version": "1.0", "containers": [flat]}).encode())
    assert len(group.notes) == 1
    (spec,) = group.containers
    assert (spec.name, spec.image, spec.entrypoint, spec.working_dir) == ("i:1", "i:1", ("run",), "/w")
    assert [rule.pattern for rule in spec.env] == ["A=1", "^B=(?:x+)$"]
    assert [(mount.destination, mount.options[2]) for mount in spec.mounts] == [("/m", "ro")]
    assert spec.security.privileged
    assert spec.exec_processes == (ExecProcess(("live",)),)
    assert parse_config(config()).notes == ()


WORDS = st.sampled_from(
    re.findall(
        r"\S+",
        """
    containers properties image containerImage name environmentVariables value command volumeMounts
    mountPath mountType securityContext fragments scenario execProcesses exec i /x vn2
    """,
    )
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)


@settings(deadline=None)
@given(st.dictionaries(WORDS, ANYTHING, max_size=4))
def test_any_document_parses_or_is_refused(document: dict[str, Any]) -> None:
    try:
        parse_config(json.dumps(document).encode())
    except MalformedInput:
        return
