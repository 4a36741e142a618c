"""Generated policies before a real Rego engine: the container as described starts, any other does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.uvm import Uvm, rule_files

from sidecar.policy.containers_defaults import PAUSE_LAYER, PRIVILEGED, UNPRIVILEGED
from sidecar.policy.generate import GenerateOptions, generate
from sidecar.policy.generate_sources import template_source, yaml_source
from sidecar.policy.image import ImageConfig, ResolvedImage
from sidecar.policy.rego import Versions

LAYERS = ["1" * 64, "2" * 64, "3" * 64]
IMAGE = ResolvedImage(
    ImageConfig(
        env=("PATH=/bin", "LANG=C"),
        entrypoint=("/server",),
        cmd=("--listen",),
        user="app",
        working_dir="/srv",
        stop_signal="SIGQUIT",
    ),
    tuple(LAYERS),
    passwd=b"root:x:0:0::/:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n",
    group=b"app:x:1001:\n",
)
PROPERTIES = {
    "image": "example/app:1",
    "environmentVariables": [{"name": "MODE", "value": "fast"}, {"name": "DOTS", "value": "a.b"}],
    "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
    "livenessProbe": {"exec": {"command": ["/server", "--ping"]}},
    "securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["CAP_MKNOD"]}},
}
GROUP = {
    "type": "Microsoft.ContainerInstance/containerGroups",
    "name": "g",
    "properties": {
        "volumes": [{"name": "data", "azureFile": {}}],
        "containers": [{"name": "app", "properties": PROPERTIES}],
    },
}


def no(question: str) -> bool:
    pytest.fail(question)


def policy(
    options: GenerateOptions | None = None, change: Callable[[dict[str, Any]], None] | None = None
) -> str:
    properties = copy.deepcopy(GROUP)
    if change is not None:
        change(properties["properties"]["containers"][0]["properties"])  # type: ignore[index]
    source = template_source(json.dumps({"resources": [properties]}).encode(), [], no)
    return generate(source.groups[0], {"example/app:1": IMAGE}, options or GenerateOptions()).text


def capabilities(*names: str) -> dict[str, list[str]]:
    return {
        name: [] if name in ("ambient", "inheritable") else list(names)
        for name in ("ambient", "bounding", "effective", "inheritable", "permitted")
    }


def request(**changes: Any) -> dict[str, Any]:
    """What the host asks for when it starts the container as described."""
    asked = {
        "containerID": "c1",
        "argList": ["/server", "--listen"],
        "envList": ["PATH=/bin", "LANG=C", "MODE=fast", "DOTS=a.b", "TERM=xterm", "HOSTNAME=host"],
        "workingDir": "/srv",
        "sandboxDir": "/run/gcs/c/sandbox",
        "hugePagesDir": "/run/gcs/c/hugepages",
        "mounts": [
            {
                "destination": "/data",
                "type": "bind",
                "source": "/run/gcs/c/sandbox/tmp/atlas/azureFileVolume/share",
                "options": ["rbind", "rshared", "ro"],
            },
            {
                "destination": "/etc/resolv.conf",
                "type": "bind",
                "source": "/run/gcs/c/sandbox/tmp/atlas/resolvconf/x",
                "options": ["rbind", "rshared", "rw"],
            },
        ],
        "privileged": False,
        "noNewPrivileges": False,
        "umask": "0022",
        "user": {"id": "1000", "name": "app"},
        "groups": [{"id": "1001", "name": "app"}],
        "capabilities": capabilities(*sorted({*UNPRIVILEGED, "CAP_NET_ADMIN"} - {"CAP_MKNOD"})),
        "seccompProfileSHA256": "",
        "devices": [],
        "isSandboxContainer": False,
    }
    return {**asked, **changes}


@pytest.fixture(params=rule_files(), ids=lambda path: path.parent.name)
def rules(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def mounts(at: int, **changes: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = request()["mounts"]
    found[at] = {**found[at], **changes}
    return found


def test_the_container_as_described_starts(rules: Path) -> None:
    assert Uvm(policy(), rules).start(LAYERS, request())


def test_the_newest_text_is_understood_too(rules: Path) -> None:
    newest = policy(GenerateOptions(versions=Versions("0.12.0", "0.5.0")))
    guest = Uvm(newest, rules)
    assert guest.start(LAYERS, request())
    assert guest.allows("signal_container_process", {"containerID": "c1", "signal": 3, "isInitProcess": True})
    assert guest.allows(
        "signal_container_process", {"containerID": "c1", "signal": 15, "isInitProcess": True}
    )
    assert not guest.allows(
        "signal_container_process", {"containerID": "c1", "signal": 1, "isInitProcess": True}
    )


@pytest.mark.parametrize(
    "layers",
    [
        ["1" * 64, "2" * 64, "4" * 64],
        ["1" * 64, "2" * 64],
        ["2" * 64, "1" * 64, "3" * 64],
        ["1" * 64, "2" * 64, "3" * 64, "3" * 64],
        [],
    ],
)
def test_other_layers_do_not(rules: Path, layers: list[str]) -> None:
    assert not Uvm(policy(), rules).start(layers, request())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"argList": ["/server", "--listen", "--debug"]}, id="one argument more"),
        pytest.param({"argList": ["/server"]}, id="one argument less"),
        pytest.param({"argList": ["/server", "--Listen"]}, id="another argument"),
        pytest.param({"workingDir": "/"}, id="another working directory"),
        pytest.param({"mounts": mounts(0, destination="/secrets")}, id="another mount point"),
        pytest.param({"mounts": mounts(0, source="/run/gcs/c/other/share")}, id="another mount source"),
        pytest.param({"mounts": mounts(0, options=["rbind", "rshared", "rw"])}, id="a writable mount"),
        pytest.param({"mounts": mounts(0, options=["rbind", "ro"])}, id="fewer mount options"),
        pytest.param({"mounts": mounts(0, type="tmpfs")}, id="another mount type"),
        pytest.param({"user": {"id": "0", "name": "root"}}, id="another user"),
        pytest.param({"umask": "0000"}, id="another umask"),
        pytest.param({"privileged": True}, id="privileged"),
        pytest.param({"seccompProfileSHA256": "0" * 64}, id="another seccomp profile"),
        pytest.param({"capabilities": capabilities(*UNPRIVILEGED[:3])}, id="too few capabilities"),
    ],
)
def test_another_request_does_not(rules: Path, change: dict[str, Any]) -> None:
    assert not Uvm(policy(), rules).start(LAYERS, request(**change))


@pytest.mark.parametrize(
    "variable", ["MODE=slow", "DOTS=aXb", "EVIL=1", "XMODE=fast", "MODE=fast\n", "LANG=D"]
)
def test_another_variable_is_dropped_or_refused(rules: Path, variable: str) -> None:
    asked = request(envList=[*request()["envList"], variable])
    guest = Uvm(policy(), rules)
    assert guest.start(LAYERS, asked)
    # What the guest gets is what the answer lists: the variable is not in it.
    other = Uvm(policy(), rules)
    targets = other.mount(LAYERS)
    other.ask("mount_overlay", {"containerID": "c1", "layerPaths": targets, "target": "/run/gcs/c/c1/rootfs"})
    assert sorted(other.ask("create_container", asked)["env_list"]) == sorted(request()["envList"])
    assert not Uvm(policy(GenerateOptions(env_dropping=False)), rules).start(LAYERS, asked)


def test_a_required_variable_must_be_there(rules: Path) -> None:
    asked = request(envList=[one for one in request()["envList"] if not one.startswith("MODE=")])
    assert Uvm(policy(), rules).start(LAYERS, asked)
    assert not Uvm(policy(GenerateOptions(require_env=True)), rules).start(LAYERS, asked)


def test_more_capabilities_are_dropped(rules: Path) -> None:
    guest = Uvm(policy(), rules)
    assert guest.start(LAYERS, request(capabilities=capabilities(*PRIVILEGED)))


def test_users_by_number(rules: Path) -> None:
    by_number = policy(GenerateOptions(users_as_ids=True))
    assert Uvm(by_number, rules).start(LAYERS, request())
    assert not Uvm(by_number, rules).start(LAYERS, request(groups=[{"id": "0", "name": "root"}]))
    assert not Uvm(by_number, rules).start(LAYERS, request(user={"id": "0", "name": "app"}))


def test_no_new_privileges(rules: Path) -> None:
    def deny(properties: dict[str, Any]) -> None:
        properties["securityContext"]["allowPrivilegeEscalation"] = False

    assert not Uvm(policy(change=deny), rules).start(LAYERS, request())
    assert Uvm(policy(change=deny), rules).start(LAYERS, request(noNewPrivileges=True))


def test_privileged(rules: Path) -> None:
    def allow(properties: dict[str, Any]) -> None:
        properties["securityContext"] = {"privileged": True}

    every = capabilities(*PRIVILEGED) | {"inheritable": list(PRIVILEGED)}
    assert Uvm(policy(change=allow), rules).start(LAYERS, request(privileged=True, capabilities=every))
    assert not Uvm(policy(change=allow), rules).start(LAYERS, request(privileged=True))


def test_probes_and_shells(rules: Path) -> None:
    for options, shell in ((GenerateOptions(), False), (GenerateOptions(debug=True), True)):
        guest = Uvm(policy(options), rules)
        assert guest.start(LAYERS, request())
        assert guest.allows("exec_in_container", request(argList=["/server", "--ping"]))
        assert guest.allows("exec_in_container", request(argList=["/bin/sh"])) is shell
        assert guest.allows("dump_stacks", {}) is shell
        assert guest.allows("get_properties", {})


def test_stdio(rules: Path) -> None:
    for stdio in (True, False):
        guest = Uvm(policy(GenerateOptions(stdio=stdio)), rules)
        targets = guest.mount(LAYERS)
        guest.ask(
            "mount_overlay", {"containerID": "c1", "layerPaths": targets, "target": "/run/gcs/c/c1/rootfs"}
        )
        assert guest.ask("create_container", request())["allow_stdio_access"] is stdio


def test_the_pause_container_starts(rules: Path) -> None:
    pause = request(
        argList=["/pause"],
        envList=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        mounts=[],
        workingDir="/",
        capabilities=capabilities(*UNPRIVILEGED),
    )
    assert Uvm(policy(), rules).start([PAUSE_LAYER], pause)
    assert not Uvm(policy(), rules).start([PAUSE_LAYER], {**pause, "envList": ["TERM=xterm"]})


def test_a_pod_starts(rules: Path) -> None:
    pod = """
kind: Deployment
metadata: {name: d}
spec:
  template:
    metadata:
      labels: {azure.workload.identity/use: "true"}
    spec:
      securityContext: {runAsUser: 5, runAsGroup: 6, fsGroup: 7}
      volumes: [{name: scratch, emptyDir: {}}]
      containers:
      - name: app
        image: example/app:1
        args: [--quiet, $(MODE)]
        env: [{name: MODE, value: fast}, {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        volumeMounts: [{name: scratch, mountPath: /scratch}]
"""
    source = yaml_source(pod.encode(), no)
    text = generate(source.groups[0], {"example/app:1": IMAGE}, GenerateOptions()).text
    asked = request(
        argList=["/server", "--quiet", "fast"],
        envList=["PATH=/bin", "MODE=fast", "NODE=", "DB_SERVICE_HOST=10.0.0.1", "AZURE_CLIENT_ID=x"],
        mounts=[
            {
                "destination": destination,
                "type": "bind",
                "source": "/run/gcs/c/sandbox/tmp/atlas/emptydir/x",
                "options": ["rbind", "rshared", mode],
            }
            for destination, mode in (
                ("/scratch", "rw"),
                ("/var/run/secrets/azure/tokens", "ro"),
                ("/etc/hosts", "rw"),
                ("/var/run/secrets/kubernetes.io/serviceaccount", "ro"),
            )
        ],
        user={"id": "5", "name": ""},
        groups=[{"id": "6", "name": ""}, {"id": "7", "name": ""}],
        capabilities=capabilities(*UNPRIVILEGED),
    )
    assert Uvm(text, rules).start(LAYERS, asked)
    assert not Uvm(text, rules).start(LAYERS, {**asked, "groups": [{"id": "8", "name": ""}]})
    assert not Uvm(text, rules).start(LAYERS, {**asked, "argList": ["/server", "--quiet", "slow"]})
