"""Container groups of templates."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.policy.arm import parse_template
from sidecar.policy.arm_groups import template_groups
from sidecar.policy.containers import ContainerGroup, EnvRule, Mount
from sidecar.policy.members import ExecProcess

TYPE = "Microsoft.ContainerInstance/containerGroups"


class Asked:
    """Answers questions and remembers them."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.questions: list[str] = []

    def __call__(self, question: str) -> bool:
        self.questions.append(question)
        return self.answer


def resource(**properties: Any) -> dict[str, Any]:
    containers = [{"name": "c", "properties": {"image": "i"}}]
    return {"type": TYPE, "name": "g", "properties": {"containers": containers, **properties}}


def container(**properties: Any) -> dict[str, Any]:
    return resource(containers=[{"name": "c", "properties": {"image": "i", **properties}}])


def groups(*resources: dict[str, Any], **template: Any) -> list[ContainerGroup]:
    data = json.dumps({"resources": list(resources), **template}).encode()
    found = template_groups(parse_template(data), Asked(False))
    return [group for _, group in found]


def env(*variables: dict[str, Any]) -> tuple[EnvRule, ...]:
    (group,) = groups(container(environmentVariables=list(variables)))
    return group.containers[0].env


def test_profiles_init_containers_and_case() -> None:
    first = resource(INITCONTAINERS=[{"Name": "init", "PROPERTIES": {"Image": "j"}}])
    second = {**resource(), "type": f"{TYPE.upper()[:-6]}GroupProfiles", "name": "profile"}
    other = {"type": "Microsoft.Storage/storageAccounts", "name": "s", "properties": {}}
    found = groups(first, other, second)
    assert [group.name for group in found] == ["g", "profile"]
    assert [one.name for one in found[0].containers] == ["c", "init"]


def test_symbolic_names_and_paths() -> None:
    data = json.dumps(
        {"languageVersion": "2.0", "Resources": {"x": {"type": "y"}, "mine": resource()}}
    ).encode()
    ((path, _),) = template_groups(parse_template(data), Asked(False))
    assert path == ("Resources", "mine")


def test_everything_may_be_an_expression() -> None:
    made = groups(
        {
            "type": "[variables('type')]",
            "name": "[toLower('NAME')]",
            "tags": {"Annotate-zero-sidecar": "[string(true())]"},
            "properties": {
                "containers": "[variables('containers')]",
                "volumes": "[variables('volumes')]",
            },
        },
        variables={
            "type": TYPE,
            "volumes": [{"name": "v", "secret": {}}],
            "containers": [
                {
                    "name": "[toLower('N')]",
                    "properties": {
                        "image": "[format('{0}:{1}', 'i', 1)]",
                        "command": "[split('a b', ' ')]",
                        "volumeMounts": [
                            {"name": "v", "mountPath": "[concat('/', 'm')]", "readOnly": "[true()]"}
                        ],
                        "environmentVariables": [{"name": "[toUpper('n')]", "value": "[[literal]"}],
                    },
                }
            ],
        },
    )
    (group,) = made
    (one,) = group.containers
    assert (group.name, group.default_fragment) == ("name", False)
    assert (one.name, one.image, one.entrypoint) == ("n", "i:1", ("a", "b"))
    assert one.env == (EnvRule("N", "N=[literal]"),)
    assert one.mounts == (Mount("/m", "sandbox:///tmp/atlas/secretsVolume/.+", ("rbind", "rshared", "ro")),)


def test_property_loops_make_members() -> None:
    made = container()
    made["properties"]["containers"][0]["properties"]["copy"] = [
        {
            "name": "environmentVariables",
            "count": 2,
            "input": {"name": "[concat('N', copyIndex('environmentVariables'))]", "value": "x"},
        }
    ]
    (group,) = groups(made)
    assert [rule.pattern for rule in group.containers[0].env] == ["N0=x", "N1=x"]


def test_lazy() -> None:
    """What no policy needs may be anything at all."""
    made = container(resources={"requests": {"cpu": "[reference('x').cpu]"}}, ports="[listKeys('y')]")
    made["location"] = "[resourceGroup().location]"
    made["properties"]["sku"] = "[madeUp()]"
    assert groups(made)[0].containers[0].image == "i"


@pytest.mark.parametrize(
    ("variable", "pattern"),
    [
        ({"name": "A", "value": ""}, "A="),
        ({"name": "A", "secureValue": "s"}, "A=s"),
        ({"name": "A", "value": None, "secureValue": "s"}, "A=s"),
        ({"name": "A", "value": "a=b\nc.*"}, "A=a=b\nc.*"),
    ],
)
def test_environment(variable: dict[str, Any], pattern: str) -> None:
    assert env(variable) == (EnvRule("A", pattern),)


def test_the_service_s_placeholder_is_any_value() -> None:
    (rule,) = env({"name": "THIM_ENDPOINT", "value": "===CONFIDENTIAL.THIM.ENDPOINT==="})
    assert rule == EnvRule("THIM_ENDPOINT", "^THIM_ENDPOINT=.*$", "re2")


@pytest.mark.parametrize(
    "value", ["[parameters('later')]", "[concat('x', reference('y').z)]", "[listKeys('a', 'b').keys[0]]"]
)
def test_a_value_known_later_is_approved_or_refused(value: str) -> None:
    declared = {"later": {"type": "string"}}
    asked = Asked(True)
    (rule,) = _with_declared(value, declared, asked)
    assert rule == EnvRule("A.B", r"^A\.B=.*$", "re2")
    assert len(asked.questions) == 1
    assert "'A.B'" in asked.questions[0]
    with pytest.raises(MalformedInput, match="not approved"):
        _with_declared(value, declared, Asked(False))


def _with_declared(value: str, declared: dict[str, Any], asked: Asked) -> tuple[EnvRule, ...]:
    body = {
        "parameters": declared,
        "resources": [container(environmentVariables=[{"name": "A.B", "value": value}])],
    }
    ((_, group),) = template_groups(parse_template(json.dumps(body).encode()), asked)
    return group.containers[0].env


def test_mounts_and_probes() -> None:
    made = container(
        volumeMounts=[{"name": "v", "mountPath": "/a"}, {"name": "w", "mountPath": "/b", "readOnly": True}],
        configMap={"keyValuePairs": {"a": "b"}},
        livenessProbe={"exec": {"command": ["live"]}},
        readinessProbe={"exec": {"command": ["ready"]}},
    )
    made["properties"]["volumes"] = [{"name": "v", "azureFile": {}}, {"name": "w", "gitRepo": {}}]
    (one,) = groups(made)[0].containers
    assert [(mount.destination, mount.options[2], mount.source[20:]) for mount in one.mounts] == [
        ("/a", "rw", "/azureFileVolume/.+"),
        ("/b", "ro", "/gitRepoVolume/.+"),
        ("/mnt/configmap", "rw", "/emptydir/.+"),
    ]
    assert one.exec_processes == (ExecProcess(("ready",)), ExecProcess(("live",)))
    assert groups(container(livenessProbe={"httpGet": {"port": 1}}))[0].containers[0].exec_processes == ()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"type": "x", "name": "y"}, "no container group"),
        (resource(containers=[]), "no containers"),
        (resource(containers=[{"name": "c"}]), "no image"),
        (resource(osType="[concat('Win', 'dows')]"), "Windows"),
        (resource(containers=[{"properties": {"image": "i"}}]), "'name' is missing"),
        (resource(containers=[{"name": "c", "properties": {"image": ["i"]}}]), "an array, wanted a string"),
        (resource(containers={"a": 1}), "an object, wanted an array"),
        ({"type": TYPE, "name": "g"}, "'properties' is missing"),
        (container(command="sh"), "a string, wanted an array"),
        (container(command=["sh", 1]), "item 1 of 'command' is a number"),
        (container(image="[parameters('x')]"), "not declared"),
        (container(image="[reference('x').image]"), "only the deployment"),
        (container(image="[concat('x']"), "wanted"),
        (container(environmentVariables=[{"name": "A"}]), "'A' has no value"),
        (container(environmentVariables=[{"value": "A"}]), "'name' is missing"),
        (container(environmentVariables=[{"name": "A=B", "value": ""}]), "not a name"),
        (container(environmentVariables=[{"name": "A", "value": "a\0"}]), "NUL"),
        (container(environmentVariables=[{"name": "A", "value": 1}]), "a number, wanted a string"),
        (container(environmentVariables=[{"name": "A", "Name": "B", "value": "x"}]), "differ only in case"),
        (container(volumeMounts=[{"name": "v", "mountPath": "/a"}]), "not declared"),
        (container(livenessProbe={"exec": {"command": []}}), "exec without a command"),
        (container(securityContext={"runAsUser": -1}), "runAsUser"),
        (container(securityContext={"runAsUser": "0"}), "runAsUser"),
        (container(securityContext={"privileged": 1}), "true or false"),
        (
            container(securityContext={"capabilities": {"add": ["NET_ADMIM"]}}),
            "'NET_ADMIM' is not one that Linux",
        ),
        (container(securityContext={"seccompProfile": "!"}), "not base64"),
        (container(securityContext={"seccompProfile": {"type": "Localhost"}}), "Localhost"),
        (resource(volumes=[{"name": "v"}]), "of 0 known kinds"),
        (resource(volumes=[{"name": "v", "secret": {}, "emptyDir": {}}]), "of 2 known kinds"),
        (resource(volumes=[{"name": "v", "secret": {}}] * 2), "declared twice"),
        ({**resource(), "copy": {"name": "x", "count": 2}}, "in a loop"),
        (
            {
                "type": "Microsoft.Resources/deployments",
                "properties": {"template": {"resources": [resource()]}},
            },
            "inside of",
        ),
        (
            resource(confidentialComputeProperties={"standaloneFragments": [{"feed": "f"}]}),
            "standaloneFragments",
        ),
        (resource(containers=[{"name": "c", "properties": {"image": "i"}}] * 257), "257 containers"),
    ],
)
def test_refused(made: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        groups(made)


def test_standalone_fragments() -> None:
    imported = {"feed": "f", "issuer": "did:x509:x", "includes": ["containers"], "minimum_svn": "1"}
    made = resource(
        confidentialComputeProperties={"standaloneFragments": ["[concat('r/f', ':1')]", imported]}
    )
    (group,) = groups(made)
    assert (group.standalone, group.imports) == (("r/f:1",), (imported,))


def test_comments_are_no_part_of_a_template() -> None:
    text = json.dumps({"resources": [resource()]}, indent=1).replace(
        '"name": "g"', '"name": "http://g", // "x"'
    )
    data = f"\ufeff/* {{ */ {text} // end".replace(', // "x",', ', // "x"').encode()
    ((_, group),) = template_groups(parse_template(data), Asked(False))
    assert group.name == "http://g"


def test_a_policy_that_only_the_deployment_knows_is_one_to_be_replaced() -> None:
    made = resource(confidentialComputeProperties={"ccePolicy": "[reference('x').policy]"})
    assert "reference" in groups(made)[0].existing


def test_a_group_that_is_not_deployed_needs_no_policy() -> None:
    assert len(groups({**resource(), "condition": "[false()]"}, resource())) == 1
    assert len(groups({**resource(), "existing": True}, resource())) == 1


KEYS = st.sampled_from(
    re.findall(
        r"\S+",
        """
    resources type name properties containers initContainers image value environmentVariables
    secureValue command volumes volumeMounts mountPath emptyDir securityContext capabilities add
    livenessProbe exec copy count input tags condition confidentialComputeProperties ccePolicy
    parameters variables defaultValue
    """,
    )
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.sampled_from(
        [
            TYPE,
            "c",
            "/x",
            "[parameters('name')]",
            "[variables('name')]",
            "[copyIndex()]",
            "[createArray()]",
            "[[x",
            "[x",
        ]
    )
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=30,
)


@settings(deadline=None)
@given(
    st.dictionaries(KEYS, ANYTHING, max_size=4),
    st.dictionaries(KEYS, ANYTHING, max_size=6),
    st.dictionaries(KEYS, ANYTHING, max_size=6),
)
def test_any_template_has_groups_or_a_typed_error(
    document: dict[str, Any], properties: dict[str, Any], container: dict[str, Any]
) -> None:
    made = {"name": "c", "properties": {"image": "i", **container}}
    group = {"type": TYPE, "name": "g", "properties": {"containers": [made], **properties}}
    for body in (document, {**document, "resources": [group]}):
        try:
            template_groups(parse_template(json.dumps(body).encode()), Asked(True))
        except MalformedInput:
            continue
