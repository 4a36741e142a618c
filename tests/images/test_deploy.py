"""Deployment templates, filled in: settings parse, policies are generated, and the check finds mistakes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.commands import Commands
from fakes.layer_tars import directory, file, make_tar
from fakes.oci_images import Blobs, layout_files, write_folder

from encfs.settingsparse import parse_settings as parse_agent
from images.deploycheck import main
from sidecar.config import parse_settings as parse_sidecar
from sidecar.importkey import parse_import_config

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "images" / "deploy"
REGISTRY = "registry.example"
VALUES = {
    "application-command": "/server",
    "application-image": f"{REGISTRY}/application:1.2",
    "azure-blob-storage-url": "https://account.blob.core.windows.net/images/data.img",
    "base64-of-runtime-data": base64.b64encode(b"{}").decode(),
    "client-id-of-managed-identity": "11111111-2222-3333-4444-555555555555",
    "full-path-to-managed-identity-with-right-permissions-to-key-vault": "/subscriptions/s/resourceGroups/g",
    "hash-digest-of-the-security-policy": "0" * 64,
    "image-tag": "0.1.0",
    "key-type-of-key-imported-to-akv": "oct-HSM",
    "key-vault-endpoint": "name.managedhsm.azure.net",
    "key-vault-key-name": "volume",
    "label-for-derived-key-valid-only-for-RSA-HSM-keys": "",
    "maa-endpoint": "sharedneu.neu.attest.azure.net",
    "optional-logfile-path": "",
    "optional-loglevel-trace-debug-info-warning-error-fatal-panic": "info",
    "registry-name": REGISTRY,
    "registry-password-if-private": "p",
    "registry-username-if-private": "u",
    "salt-for-key-derivation-valid-only-for-RSA-HSM-keys": "",
    "base64-std-encoded-string-of-security-policy": "",
}
SETTINGS = {
    "encfs-read.arm.json": "encfs-read.args.json",
    "encfs-read-write.arm.json": "encfs-read-write.args.json",
    "skr.arm.json": "skr.args.json",
    "kubernetes.yaml": "encfs-read-write.args.json",
    "vn2.yaml": "encfs-read-write.args.json",
    "kubernetes-extract.yaml": None,
}
PLACEHOLDER = re.compile(r"<([A-Za-z][A-Za-z0-9-]{3,})>")


def fill(name: str, **more: str) -> str:
    """A file of images/deploy with every placeholder replaced; an unknown one fails the test."""
    values = VALUES | {key.replace("_", "-"): value for key, value in more.items()}
    return PLACEHOLDER.sub(lambda found: values[found[1]], (DEPLOY / name).read_text())


def filled(name: str) -> str:
    """A template with the settings that belong to it."""
    settings = SETTINGS[name]
    if settings is None:
        return fill(name)
    encoded = base64.b64encode(fill(settings).encode()).decode()
    return fill(name, **{"base64_std_encodes_string_of_sidecar_args": encoded})


Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs deploy-check on a text: exit code and lines."""

    def run(name: str, text: str, *words: str | Path) -> tuple[int, list[str]]:
        (tmp_path / name).write_text(text)
        code = main([str(tmp_path / name), *map(str, words)])
        streams = capsys.readouterr()
        assert streams.err == ""
        return code, streams.out.splitlines()

    return run


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_filled_in_it_passes_and_empty_it_does_not(check: Check, name: str) -> None:
    assert check(name, filled(name)) == (0, ["ok"])
    code, lines = check(name, (DEPLOY / name).read_text())
    assert code == 1
    wanted = set(PLACEHOLDER.findall((DEPLOY / name).read_text()))
    assert {found[1] for line in lines if (found := re.search("placeholder <(.*)> is still", line))} == wanted


def test_every_template_is_known() -> None:
    found = {
        path.name for path in DEPLOY.iterdir() if path.suffix == ".yaml" or path.name.endswith(".arm.json")
    }
    assert found == set(SETTINGS)


@pytest.mark.parametrize(
    ("name", "writes"), [("encfs-read.args.json", False), ("encfs-read-write.args.json", True)]
)
def test_settings_of_the_agent(name: str, writes: bool) -> None:
    settings = parse_agent(fill(name).encode(), name, allow_raw_key=False)
    assert settings.warnings == ()
    (volume,) = settings.volumes
    assert (volume.mount_point, volume.read_write, volume.private) == ("/mnt/remote/share", writes, True)
    assert settings.client_id == VALUES["client-id-of-managed-identity"]


def test_settings_of_the_sidecar_and_of_the_import() -> None:
    settings = parse_sidecar(fill("skr.args.json"))
    assert settings.allowed.vaults is not None
    config = parse_import_config(fill("importkeyconfig.json").encode())
    assert dict(config.clauses[0])["x-ms-sevsnpvm-hostdata"] == "0" * 64


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """All images that the templates name, in an OCI layout; where each is."""
    blobs = Blobs()
    top = [
        directory("etc/"),
        file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        file("etc/group", b"root:x:0:\n"),
    ]
    manifest = blobs.image([(make_tar(0, top), "")], config={"Env": ["PATH=/bin"], "Cmd": ["/server"]})
    names = [f"{REGISTRY}/attested-volumes/{name}:0.1.0" for name in ("skr", "encfs")]
    names.append(VALUES["application-image"])
    write_folder(tmp_path / "layout", layout_files(blobs, dict.fromkeys(names, manifest)))
    (tmp_path / "layouts.json").write_text(json.dumps(dict.fromkeys(names, "layout")))
    return tmp_path / "layouts.json"


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"kubernetes.yaml", "kubernetes-extract.yaml"}))
def test_policy_key_and_template_fit_together(check: Check, layout: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(filled(name))
    commands = Commands(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    option = "--virtual-node-yaml" if name.endswith(".yaml") else "-a"
    words = ("sidecar", "policy", "generate", option, name, "--tar", layout)
    digest = commands.run(*words, check=True).out.strip()
    with_policy = (tmp_path / name).read_text()
    key = tmp_path / "key.json"
    key.write_text(fill("importkeyconfig.json", hash_digest_of_the_security_policy=digest))
    assert check(name, with_policy, "--key", key) == (0, ["ok"])
    key.write_text(fill("importkeyconfig.json"))
    code, lines = check(name, with_policy, "--key", key)
    assert code == 1
    assert f"has digest {digest}, the key demands x-ms-sevsnpvm-hostdata {'0' * 64}" in lines[0]


def mutate_settings(text: str, old: str, new: str) -> str:
    """The template with a change inside the base64 of its settings."""
    encoded = re.search(r'"EncfsSideCarArgs",\s*"value": "([^"]+)"', text)
    assert encoded is not None
    inner = base64.b64decode(encoded[1]).decode()
    assert old in inner
    return text.replace(encoded[1], base64.b64encode(inner.replace(old, new).encode()).decode())


def test_mistakes_are_found(check: Check) -> None:
    name = "encfs-read.arm.json"
    good = filled(name)
    for mutated, said in [
        (good.replace("application:1.2", "application:latest"), "tag latest"),
        (good.replace("application:1.2", "application"), "tag missing"),
        (good.replace("application:1.2", "application@sha256:12"), "digest is malformed"),
        (good.replace('"privileged": true', '"privileged": false'), "cannot be mounted"),
        (mutate_settings(good, "sharedneu", "https://sharedneu"), "authority"),
        (mutate_settings(good, "/mnt/remote/share", "share"), "mount_point"),
        (good[:-20], "template"),
    ]:
        code, lines = check(name, mutated)
        assert code == 1, said
        assert any(said in line for line in lines), (said, lines)


def test_the_key_lies_where_the_volumes_look_for_it(check: Check, tmp_path: Path) -> None:
    policy = base64.b64encode(b"package policy\n").decode()
    text = filled("encfs-read.arm.json").replace('"ccePolicy": ""', f'"ccePolicy": "{policy}"')
    digest = hashlib.sha256(b"package policy\n").hexdigest()
    key = json.loads(fill("importkeyconfig.json", hash_digest_of_the_security_policy=digest))
    key["key"]["akv"]["endpoint"] = "other.vault.azure.net"
    key["claims"].append([{"claim": "x-ms-compliance-status", "equals": "azure-compliant-uvm"}])
    (tmp_path / "key.json").write_text(json.dumps(key))
    code, lines = check("t.json", text, "--key", tmp_path / "key.json")
    assert (code, len(lines)) == (1, 2), lines
    assert "releases it to any policy" in lines[0]
    assert "vault name.managedhsm.azure.net, the key's is other.vault.azure.net" in lines[1]
