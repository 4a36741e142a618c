"""Whole policies: two of confcom's own sample policies, met byte for byte, and what each choice changes.

The expected digests are SHA-256 of `samples/aci/environment_variables/policy.rego` (confcom 1.2.7) and of
`samples/aci/command/policy_fragment.rego` (prerelease) in Azure/azure-cli-extensions, src/confcom, without
the three line ends that printing adds.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from sidecar.errors import MalformedInput, UsageError
from sidecar.policy.containers_common import parse_import
from sidecar.policy.generate import GenerateOptions, GroupPolicy, generate
from sidecar.policy.generate_sources import (
    config_source,
    image_source,
    template_source,
    yaml_source,
)
from sidecar.policy.image import ImageConfig, ResolvedImage
from sidecar.policy.rego import Versions

IMAGE = (
    "mcr.microsoft.com/azurelinux/distroless/base@sha256:"
    "1e77d97e1e39f22ed9c52f49b3508b4c1044cec23743df9098ac44e025f654f2"
)
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LAYER = "243e1b3ce08093f2f0d9cd6a9eafde8737f64fec105ed59c346d309fbe760b58"
RESOLVED = ResolvedImage(ImageConfig(env=(PATH,)), (LAYER,))


def refuse(question: str) -> bool:
    pytest.fail(f"asked: {question}")


def template(properties: dict[str, Any] | None = None, **group: Any) -> bytes:
    container = {"name": "container1", "properties": {"image": IMAGE, **(properties or {})}}
    resource = {
        "type": "Microsoft.ContainerInstance/containerGroups",
        "name": "group1",
        "properties": {"containers": [container], **group},
    }
    return json.dumps({"resources": [resource]}).encode()


def policy(
    data: bytes, options: GenerateOptions | None = None, image: ResolvedImage = RESOLVED
) -> GroupPolicy:
    (group,) = template_source(data, [], refuse).groups
    return generate(group, {IMAGE: image}, options or GenerateOptions())


def first(data: bytes, options: GenerateOptions | None = None) -> dict[str, Any]:
    return policy(data, options).containers[0].to_json()


def test_confcom_sample_of_environment_variables() -> None:
    made = policy(
        template({"environmentVariables": [{"name": "MY_VAR", "value": "MY_VAL"}]}),
        GenerateOptions(versions=Versions("0.10.0", "0.2.3"), infrastructure_svn="1"),
    )
    assert made.digest == "0f269e0a28dcba7a6f8ff394e7fa78f813c0d4c3d436378ad2036c6f23ffbf70"


def test_confcom_sample_with_a_fragment() -> None:
    contoso = {
        "feed": "mcr.microsoft.com/acc/samples/aci/helloworld",
        "includes": ["containers", "fragments"],
        "issuer": "did:x509:0:sha256:8OhuTqQPbrbDMXV9QentXIIRWqcmU_B88n8jPr1WsBc::subject:CN:Contoso",
        "minimum_svn": "1",
        "path": "contoso.rego.cose",
    }
    made = policy(
        template({"command": ["/bin/sh", "-c", "while true; do echo hello; sleep 10; done"]}),
        GenerateOptions(
            versions=Versions("0.12.0", "0.5.0"),
            imports=(parse_import(contoso, "import"),),
        ),
    )
    assert made.digest == "ddf0a2bf57e734452c0477c38551575cc281e6f5ac8bb33055d24f7fa36ba045"


def test_forms_agree() -> None:
    made = policy(template())
    assert base64.b64decode(made.encoded).decode() == made.text
    assert hashlib.sha256(made.text.encode()).hexdigest() == made.digest
    assert made.text.isascii()
    assert not made.text.endswith("\n")
    assert '\n\napi_version := "0.11.0"\nframework_version := "0.2.3"\n\n' in made.text
    assert "rw_mount_device := data.framework.rw_mount_device\n\nreason := " in made.text
    pretty, compact = made.pretty.split("\n\n"), made.text.split("\n\n")
    assert [one for one in zip(pretty, compact, strict=True) if one[0] != one[1]] == [(pretty[4], compact[4])]
    (old, new) = (one.removeprefix("containers := ") for one in (compact[4], pretty[4]))
    assert json.loads(old) == json.loads(new)
    assert new.startswith('[\n  {\n    "allow_elevated": false,')


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (GenerateOptions(stdio=False), {"allow_stdio_access": (True, False)}),
        (GenerateOptions(omit_id=True), {"id": (IMAGE, None)}),
        (
            GenerateOptions(debug=True),
            {
                "exec_processes": (
                    [],
                    [{"command": ["/bin/sh"], "signals": []}, {"command": ["/bin/bash"], "signals": []}],
                )
            },
        ),
        (GenerateOptions(versions=Versions("0.12.0", "0.5.0")), {"signals": ([], [9, 15])}),
    ],
)
def test_a_choice_changes_its_member_only(
    options: GenerateOptions, changes: dict[str, tuple[Any, Any]]
) -> None:
    plain, chosen = first(template()), first(template(), options)
    for name in plain.keys() | chosen.keys():
        before, after = changes.get(name, (plain.get(name), plain.get(name)))
        assert (plain.get(name), chosen.get(name)) == (before, after), name


def test_debug_mode_and_dropping_are_flags() -> None:
    made = policy(template(), GenerateOptions(debug=True, env_dropping=False)).text
    assert "allow_dump_stacks := true\nallow_runtime_logging := true\n" in made
    assert "allow_environment_variable_dropping := false\n" in made
    assert "allow_unencrypted_scratch := false\nallow_capability_dropping := true\n\n" in made


def test_stdio_of_the_pause_container_too() -> None:
    assert (
        policy(template(), GenerateOptions(stdio=False)).containers[-1].to_json()["allow_stdio_access"]
        is False
    )


def test_fragments() -> None:
    assert policy(template(), GenerateOptions(default_fragment=False)).fragments == ()
    assert "\n\nfragments := []\n\n" in policy(template(), GenerateOptions(default_fragment=False)).text
    (one,) = policy(template(), GenerateOptions(infrastructure_svn="7")).fragments
    assert one["minimum_svn"] == "7"
    untagged = json.loads(template())
    untagged["resources"][0]["tags"] = {"annotate-ZERO-sidecar": "true"}
    assert policy(json.dumps(untagged).encode()).fragments == ()


def test_the_service_s_own_image_first() -> None:
    name = "mcr.microsoft.com/aci/atlas-netstats:1"
    (group,) = image_source([name]).groups
    made = generate(group, {name: RESOLVED}, GenerateOptions())
    assert made.text.startswith("package microsoftcontainerinstance\n\napi_version := ")
    assert "data.framework" not in made.text
    assert [one.name for one in made.containers] == [name]
    assert made.containers[0].mounts == ()


def test_an_image_by_itself_is_named_by_its_reference() -> None:
    (group,) = image_source([IMAGE]).groups
    entry = generate(group, {IMAGE: RESOLVED}, GenerateOptions()).containers[0].to_json()
    assert (entry["name"], entry["id"], entry["command"]) == (IMAGE, IMAGE, None)
    omitted = generate(group, {IMAGE: RESOLVED}, GenerateOptions(omit_id=True)).containers[0].to_json()
    assert "name" not in omitted
    assert "id" not in omitted


@pytest.mark.parametrize("layers", [(), ("abc",), (LAYER.upper(),)])
def test_layers_that_admit_nothing_are_refused(layers: tuple[str, ...]) -> None:
    with pytest.raises(MalformedInput, match="layer"):
        policy(template(), image=ResolvedImage(ImageConfig(), layers))


@pytest.mark.parametrize("version", ["0.13.0", "0.9.0", "1", "0.11", "0.11.0\n", "00.11.0"])
def test_versions_of_unknown_text_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match="api version"):
        Versions(api=version)


def test_sources_agree_on_the_same_container() -> None:
    """A template, a configuration and a pod that say the same differ only in what their scenario adds."""
    env = [{"name": "A", "value": "1"}]
    probe = {"exec": {"command": ["true"]}}
    properties = {"image": IMAGE, "command": ["run"], "environmentVariables": env, "livenessProbe": probe}
    config = json.dumps({"containers": [{"name": "container1", "properties": properties}]}).encode()
    pod = {
        "kind": "Pod",
        "spec": {
            "containers": [
                {"name": "container1", "image": IMAGE, "command": ["run"], "env": env, "livenessProbe": probe}
            ]
        },
    }
    made = [
        generate(source.groups[0], {IMAGE: RESOLVED}, GenerateOptions()).containers[0].to_json()
        for source in (
            template_source(template(properties), [], refuse),
            config_source(config),
            yaml_source(json.dumps(pod).encode(), refuse),
        )
    ]
    assert made[0] == made[1]
    assert {name for name in made[0] if made[0][name] != made[2][name]} == {"env_rules", "mounts"}
    assert made[2]["env_rules"][: len(made[0]["env_rules"])] == made[0]["env_rules"]
