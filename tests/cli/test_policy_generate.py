"""`sidecar policy generate` as users run it: real images in files, options, streams, exit codes, files."""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import pty
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes.commands import Commands
from fakes.layer_tars import directory, file, make_tar
from fakes.oci_images import Blobs, digest, docker_files, layout_files, write_archive, write_folder
from fakes.uvm import Uvm

from sidecar import cli_policy_generate
from sidecar.errors import SidecarError
from sidecar.policy.containers import ContainerGroup, ContainerSpec
from sidecar.policy.fragment import load_signer, sign_fragment
from sidecar.policy.fragment_text import build_fragment_text
from sidecar.policy.generate_images import Archives, image_places
from sidecar.policy.images_names import RegistryName
from sidecar.policy.layers import hash_layer
from sidecar.policy.parse import parse_policy
from sidecar.policy.testchain import make_test_chain

NAME = "registry.example/app:1"
BASE = make_tar(
    tarfile.PAX_FORMAT,
    [directory("etc/"), file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), file("etc/group", b"root:x:0:\n")],
)
TOP = make_tar(
    tarfile.PAX_FORMAT,
    [
        directory("etc/"),
        file("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"),
        file("etc/group", b"root:x:0:\napp:x:1000:\n"),
        file("server", b"#!/bin/sh\n", mode=0o755),
    ],
)
CONFIG = {"Env": ["PATH=/bin", "MODE=slow"], "Entrypoint": ["/server"], "Cmd": ["-v"], "User": "app"}


def root_hashes() -> list[str]:
    return [hash_layer(io.BytesIO(one)).root_hash for one in (BASE, TOP)]


def write_layout(folder: Path, name: str = NAME) -> str:
    """An OCI layout with the image; the digest of its manifest."""
    blobs = Blobs()
    manifest = blobs.image([(BASE, "gzip"), (TOP, "")], config=CONFIG)
    write_folder(folder, layout_files(blobs, {name: manifest}))
    return digest(manifest)


def write_saved(path: Path, name: str = NAME) -> None:
    """What `docker save` writes of the image."""
    write_archive(path, docker_files([BASE, TOP], CONFIG, [name]))


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit code and both streams."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_layout(tmp_path / "layout")

    def run(*words: str | Path) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        cli_policy_generate.add_commands(parser.add_subparsers())
        try:
            arguments = parser.parse_args(["generate", *map(str, words)])
            code = int(arguments.run(arguments) or 0)
        except SidecarError as error:
            code = error.exit_code
            print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        except SystemExit as exit:
            code = int(exit.code or 0)
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return run


TEMPLATE = """{
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "parameters": {"image": {"type": "string"}, "mode": {"type": "securestring"}},
    "resources": [
        {
            "type": "Microsoft.ContainerInstance/containerGroups",
            "name": "group1",
            "properties": {
                "containers": [
                    { "name": "app", "properties": { "image": "[parameters('image')]",
                      "environmentVariables": [ {"name": "MODE", "secureValue": "[parameters('mode')]"} ] } }
                ],
                "confidentialComputeProperties": { "ccePolicy": "" }
            }
        }
    ]
}
"""


def write_template(
    folder: Path, *, mode: str | None = "fast", text: str = TEMPLATE
) -> tuple[str | Path, ...]:
    """A template and its parameters; the words that name both and the image's layout."""
    values: dict[str, Any] = {"image": {"value": NAME}}
    if mode is not None:
        values["mode"] = {"value": mode}
    (folder / "t.json").write_text(text)
    (folder / "p.json").write_text(json.dumps({"parameters": values}))
    return "-a", folder / "t.json", "-p", folder / "p.json", "--tar", folder / "layout"


def policy_in(path: Path) -> str:
    body = json.loads(path.read_text())
    encoded = body["resources"][0]["properties"]["confidentialComputeProperties"]["ccePolicy"]
    return base64.b64decode(encoded, validate=True).decode()


def test_a_template_gets_its_policy(run: Run, tmp_path: Path) -> None:
    words = write_template(tmp_path)
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    text = policy_in(tmp_path / "t.json")
    assert out == f"{hashlib.sha256(text.encode()).hexdigest()}\n"
    encoded = base64.b64encode(text.encode()).decode()
    assert (tmp_path / "t.json").read_text() == TEMPLATE.replace(
        '"ccePolicy": ""', f'"ccePolicy": "{encoded}"'
    )
    app, pause = parse_policy(text.encode()).containers
    assert (app.name, app.id, list(app.layers)) == ("app", NAME, root_hashes())
    assert app.command == ("/server", "-v")
    assert [rule.pattern for rule in app.env_rules][:2] == ["MODE=fast", "PATH=/bin"]
    assert (app.user.user.pattern, app.user.user.strategy) == ("app", "name")
    assert pause.name == "pause-container"


def test_the_engine_starts_the_real_image(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*write_template(tmp_path), "--outraw")
    assert code == 0
    guest = Uvm(out[:-3])
    assert guest.mount(root_hashes()) is not None
    assert guest.mount([hash_layer(io.BytesIO(TOP + bytes(512))).root_hash[::-1]]) is None


def test_again_changes_nothing_and_asks_nothing(run: Run, tmp_path: Path) -> None:
    words = write_template(tmp_path)
    first = run(*words)
    after = (tmp_path / "t.json").read_bytes()
    assert run(*words) == first
    assert (tmp_path / "t.json").read_bytes() == after


def test_every_source_of_the_image_gives_the_same_policy(run: Run, tmp_path: Path) -> None:
    write_saved(tmp_path / "saved.tar")
    (tmp_path / "map.json").write_text(json.dumps({NAME: "saved.tar", "other:1": "nowhere.tar"}))
    outputs = {
        run("--image", NAME, "--tar", source, "--outraw")[1]
        for source in ("layout", "saved.tar", tmp_path / "map.json")
    }
    outputs |= {
        run("--image", f"{kind}:{NAME}", "--outraw")[1] for kind in ("oci:layout", "docker-archive:saved.tar")
    }
    assert len(outputs) == 1
    assert f'"name":"{NAME}"' in outputs.pop()


def test_printing_forms(run: Run, tmp_path: Path) -> None:
    words = ("--image", NAME, "--tar", "layout")
    code, encoded, err = run(*words)
    assert code == 0
    text = base64.b64decode(encoded.removesuffix("\n\n\n"), validate=True).decode()
    made = hashlib.sha256(text.encode()).hexdigest()
    assert err == f"sidecar: digest {made} images\n"
    assert run(*words, "--print-policy")[1] == encoded
    assert run(*words, "--outraw")[1] == f"{text}\n\n\n"
    code, pretty, err = run(*words, "--outraw-pretty-print")
    assert parse_policy(pretty.encode()) == parse_policy(text.encode())
    # The digest is that of what a group carries, however it is printed.
    assert err == f"sidecar: digest {made} images\n"
    assert run(*words, "--outraw", "-s", tmp_path / "saved")[1] == ""
    assert (tmp_path / "saved").read_text() == f"{text}\n\n\n"
    assert run(*words, "--outraw", "--print-policy")[0] == 2


def test_check_digest(run: Run) -> None:
    words = ("--image", NAME, "--tar", "layout")
    made = run(*words)[2].split()[2]
    assert run(*words, "--check-digest", made.upper())[0] == 0
    code, out, err = run(*words, "--check-digest", "0" * 64)
    assert (code, out) == (12, "")
    assert made in err


def test_print_and_compare_the_existing_policy(run: Run, tmp_path: Path) -> None:
    words = write_template(tmp_path)
    code, _, err = run(*words, "--diff")
    assert code == 2
    assert "carries no policy" in err
    run(*words)
    text = policy_in(tmp_path / "t.json")
    assert (
        run(*words[:2], "--print-existing-policy")[1] == f"CCE Policy for Container Group: group1\n\n{text}\n"
    )
    assert run(*words, "--diff")[:2] == (0, "")
    write_template(tmp_path, mode="slow", text=(tmp_path / "t.json").read_text())
    before = (tmp_path / "t.json").read_bytes()
    code, out, _ = run(*words, "-d")
    assert code == 2
    found = json.loads(out)["group1"]
    assert found["before"] != found["after"]
    assert any("MODE=" in json.dumps(change) for change in found["changes"])
    assert (tmp_path / "t.json").read_bytes() == before


def test_nobody_is_asked_without_a_terminal(run: Run, tmp_path: Path) -> None:
    words = write_template(tmp_path, mode=None)
    before = (tmp_path / "t.json").read_bytes()
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "'MODE'" in err
    assert "approve with -y" in err
    assert (tmp_path / "t.json").read_bytes() == before
    for option in ("-y", "--approve", "--approve-wildcards"):
        code, out, err = run(*words, option, "--outraw")
        assert code == 0
        assert '"pattern":"^MODE=.*$"' in out
        assert "sidecar: approved: container 'app': environment variable 'MODE'" in err


def test_another_policy_is_not_replaced_unasked(run: Run, tmp_path: Path) -> None:
    words = write_template(tmp_path, text=TEMPLATE.replace('"ccePolicy": ""', '"ccePolicy": "cGFja2FnZQ=="'))
    before = (tmp_path / "t.json").read_bytes()
    code, _, err = run(*words)
    assert code == 2
    assert "carries another policy" in err
    assert (tmp_path / "t.json").read_bytes() == before
    assert run(*words, "-y")[0] == 0
    assert policy_in(tmp_path / "t.json").startswith("package policy")


MANIFEST = """# kept
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  template:
    metadata:
      labels: {app: d}   # kept too
    spec:
      containers:
      - name: app
        image: registry.example/app:1
        args: ["-q"]
"""


def test_a_manifest_gets_its_policy(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text(MANIFEST)
    code, out, _ = run("--virtual-node-yaml", path, "--tar", "layout")
    assert code == 0
    lines = path.read_text().splitlines(keepends=True)
    added = [line for line in lines if line not in MANIFEST.splitlines(keepends=True)]
    assert [line.split(":")[0].strip() for line in added] == [
        "annotations",
        "microsoft.containerinstance.virtualnode.ccepolicy",
    ]
    assert "".join(line for line in lines if line not in added) == MANIFEST
    text = base64.b64decode(added[1].split()[1]).decode()
    assert out.strip() == hashlib.sha256(text.encode()).hexdigest()
    assert parse_policy(text.encode()).containers[0].command == ("/server", "-q")


def test_choices(run: Run) -> None:
    def made(*words: str) -> str:
        code, out, _ = run("--image", NAME, "--tar", "layout", "--outraw", *words)
        assert code == 0, words
        return out

    plain = made()
    assert made("--enable-stdio", "--faster-hashing", "--no-cache") == plain
    assert '"allow_stdio_access":true' not in made("--disable-stdio")
    assert '"/bin/bash"' in made("--debug-mode")
    assert '"id"' not in made("--omit-id")
    assert '"minimum_svn": "7"' in made("--infrastructure-svn", "7")
    assert "\nfragments := []\n" in made("-e")
    assert 'framework_version := "0.5.0"' in made("--api-version", "0.12.0", "--framework-version", "0.5.0")
    assert '"user_idname":{"pattern":"1000","strategy":"id"}' in made("--users-as-ids")
    assert "allow_environment_variable_dropping := false" in made("--no-env-dropping")
    assert "IMDS_ENDPOINT=.+" in made("--identity-endpoints")
    entry = json.dumps({"name": "ready", "layers": ["ab" * 32], "command": ["x"]})
    ready = parse_policy(made("--with-containers", entry).encode()).containers
    assert [one.name for one in ready] == [NAME, "ready", "pause-container"]


def test_entries_can_be_passed_on(run: Run) -> None:
    words = ("--image", NAME, "--tar", "layout")
    code, entries, _ = run(*words, "--print-containers")
    assert code == 0
    assert [one["name"] for one in json.loads(entries)] == [NAME]
    imported = {"feed": "f", "issuer": "i", "includes": ["containers"], "minimum_svn": "1"}
    Path("c.json").write_text(json.dumps({"fragments": [imported]}))
    code, passed, _ = run("-i", "c.json", "--with-containers", entries, "--outraw")
    assert code == 0
    Path("entries.json").write_text(entries)
    assert run("-i", "c.json", "--with-containers", "entries.json", "--outraw")[1] == passed
    assert (
        parse_policy(passed.encode()).containers
        == parse_policy(run(*words, "--outraw")[1].encode()).containers
    )


def test_ready_entries_alone_make_a_policy(run: Run) -> None:
    entry = json.dumps({"name": "ready", "layers": ["ab" * 32], "command": ["x"]})
    code, out, _ = run("--with-containers", entry, "--outraw")
    assert code == 0
    assert [one.name for one in parse_policy(out.encode()).containers] == ["ready", "pause-container"]


def test_a_container_covered_by_a_signed_fragment_is_left_out(run: Run, tmp_path: Path) -> None:
    words = ("--image", NAME, "--tar", "layout")
    entry = json.loads(run(*words, "--print-containers")[1])[0]
    chain = make_test_chain(now=datetime(2026, 1, 1, tzinfo=UTC))
    signer = load_signer(chain.key_pem, chain.chain_pem)
    text = build_fragment_text("mine", "3", [entry])
    (tmp_path / "f.cose").write_bytes(sign_fragment(text, signer, feed="feed"))
    imported = {"feed": "feed", "issuer": signer.issuer, "includes": ["containers"], "minimum_svn": "3"}

    def made(*more: str, **members: Any) -> tuple[list[str | None], str]:
        (tmp_path / "i.json").write_text(json.dumps({"fragments": [imported | {"path": "f.cose"} | members]}))
        code, out, err = run(*words, "-f", "-j", "i.json", "--outraw", *more)
        return [one.name for one in parse_policy(out.encode()).containers] if code == 0 else [], err

    assert made()[0] == ["pause-container"]
    assert made("--disable-stdio")[0] == [NAME, "pause-container"]
    assert made("--debug-mode")[0] == [NAME, "pause-container"]
    assert "svn" in made(minimum_svn="4")[1]
    assert made(minimum_svn="4")[0] == []


def test_a_configuration(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "sub"
    folder.mkdir()
    write_saved(folder / "app.tar")
    container = {"name": "app", "path": "app.tar", "properties": {"image": NAME, "command": ["x"]}}
    (folder / "c.json").write_text(json.dumps({"version": "1.0", "containers": [container]}))
    code, out, _ = run("-i", folder / "c.json", "--outraw")
    assert code == 0
    assert list(parse_policy(out.encode()).containers[0].layers) == root_hashes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "wanted one of -a, -i"),
        (["--image", NAME, "-i", "x"], "wanted one of -a, -i"),
        (["--image", NAME, "-p", "x"], "--parameters"),
        (["--image", NAME, "--disable-stdio", "--enable-stdio"], "wanted one of them"),
        (["--image", NAME, "-e", "--infrastructure-svn", "1"], "--infrastructure-svn"),
        (["--image", NAME, "--infrastructure-svn", "x"], "wanted a number"),
        (["--image", NAME, "-f"], "wanted both or none"),
        (["--image", NAME, "-j", "x"], "wanted both or none"),
        (["--image", NAME, "-d"], "only a template or a YAML file"),
        (["--image", NAME, "-v"], "--validate-sidecar"),
        (["--image", NAME, "--tar", "layout", "--api-version", "9.9.9"], "api version '9.9.9'"),
        (["--image", NAME, "--tar", "layout", "--with-containers", "{}"], "no layers"),
        (["--image", NAME, "--tar", "layout", "--with-containers", "nowhere"], "No such file"),
        (["--image", NAME, "--image", "b:1", "--tar", "layout"], "one archive for 2 images"),
        (["--image", NAME, "--tar", "nowhere"], "nowhere: No such file"),
        (["--image", "NOT/a/Name", "-y"], "wanted [HOST"),
        (["-a", "nowhere"], "No such file"),
    ],
)
def test_refused(run: Run, words: list[str], message: str) -> None:
    code, out, err = run(*words)
    assert code in (2, 3)
    assert out == ""
    assert message in err


def test_saving_leaves_the_template_alone(run: Run, tmp_path: Path) -> None:
    words = write_template(tmp_path)
    assert run(*words, "-s", tmp_path / "saved")[:2] == (0, "")
    assert (tmp_path / "t.json").read_text() == TEMPLATE
    assert (tmp_path / "saved").read_text() == run(*words, "--print-policy")[1]
    code, _, err = run(*words, "-s", tmp_path / "no" / "folder")
    assert code == 2
    assert "No such file" in err


def test_a_pinned_image_must_be_the_one_in_the_file(run: Run, tmp_path: Path) -> None:
    pinned = write_layout(tmp_path / "pinned", "x")
    assert run("--image", f"registry.example/app@{pinned}", "--tar", "pinned")[0] == 0
    code, _, err = run("--image", f"registry.example/app@sha256:{'0' * 64}", "--tar", "pinned")
    assert code == 5
    assert pinned in err


@pytest.mark.parametrize("name", ["./layout", "/tmp/layout", "oci-archive:./x", "containers-storage:[/x]y"])
def test_a_template_names_no_files_of_this_machine(run: Run, tmp_path: Path, name: str) -> None:
    words = write_template(tmp_path)[:4]
    (tmp_path / "p.json").write_text(
        json.dumps({"parameters": {"image": {"value": name}, "mode": {"value": "x"}}})
    )
    code, _, err = run(*words)
    assert code == 2
    assert "wanted [HOST" in err


def test_a_scheme_in_a_template_is_part_of_a_registry_s_name() -> None:
    spec = ContainerSpec("c", "oci:layout")
    (place,) = image_places([ContainerGroup("g", (spec,))], Archives(), Path()).values()
    assert isinstance(place, RegistryName)


# -- as processes ---------------------------------------------------------------------------------


def test_as_a_process(tmp_path: Path) -> None:
    commands = Commands(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    write_layout(tmp_path / "layout")
    done = commands.run("sidecar", "policy", "generate", *write_template(tmp_path))
    assert done.code == 0
    found = commands.run("sidecar", "policy", "digest", "t.json")
    assert found.out.split()[0] == done.out.strip()


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 3)])
def test_a_person_is_asked_on_a_terminal(tmp_path: Path, answer: bytes, code: int) -> None:
    write_layout(tmp_path / "layout")
    words = ["sidecar", "policy", "generate", *map(str, write_template(tmp_path, mode=None)), "--outraw"]
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        process = subprocess.run(
            words,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=os.environ
            | {
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            timeout=60,
            check=False,
        )
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code
    assert "may it be anything? [y/N]" in shown
    assert (b'"pattern":"^MODE=.*$"' in process.stdout) is (code == 0)
