"""Real containers of the real images, with the privileges that docs/privileges.md names and no others.

One group = one network namespace and one shared folder: the cloud in a box, the sidecar, its test clients,
the volumes' sidecar, an application.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.containers import Group, environment_of, mounted, run

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.containers]

POLICY = base64.b64encode(b"package policy\ndefault allow := false\n").decode()
OTHER_POLICY = base64.b64encode(b"package policy\ndefault allow := true\n").decode()
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The root file systems of both images, built from this checkout."""
    out = tmp_path_factory.mktemp("images")
    words = (ROOT / "scripts" / "build-images", "--reuse", "--out", out)
    lines = run("env", "SOURCE_DATE_EPOCH=1700000000", *words, timeout=580).stdout.splitlines()
    tags = {line.split()[0]: line.split()[-1] for line in lines}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attested-volumes" / "images"
    storage = cache / "storage"
    words_of = (
        "buildah",
        "--storage-driver",
        "vfs",
        "--root",
        storage / "root",
        "--runroot",
        storage / "run",
    )
    with mounted(words_of, tags) as found:
        yield found


@pytest.fixture
def group(images: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    made = Group(tmp_path_factory.mktemp("group"), images)
    try:
        made.begin()
        yield made
    finally:
        made.end()


@pytest.fixture
def cloud(group: Group) -> dict[str, str]:
    """The cloud in a box runs in the group; the variables that lead to it."""
    words = ["sidecar", "local", "--directory", "/state", "--snp-directory", "/state/snp", "--no-throttle"]
    group.start("cloud", "skr", words, like="client").said("sidecar local: ready")
    # Its test keys are for everyone in the group to read: containers have different users, and no capability.
    run("chmod", "-R", "a+rX", group.folder / "state")
    return environment_of(group.folder / "state" / "env") | {"UVM_SECURITY_POLICY": POLICY}


def tool(group: Group, image: str, cloud: dict[str, str], *words: str, name: str = "tool") -> None:
    """Run a command in a container of its own; it must succeed."""
    container = group.start(name, image, words, like="client", environment=cloud)
    assert container.wait() == 0, container.log


def key_of(cloud: dict[str, str]) -> dict[str, Any]:
    return {
        "kid": "volume",
        "kty": "oct-HSM",
        "authority": {"endpoint": cloud["MAA_ENDPOINT"]},
        "akv": {"endpoint": cloud["MHSM_ENDPOINT"]},
    }


def import_key(group: Group, cloud: dict[str, str]) -> Path:
    """A key in the vault, bound to POLICY; the file with it."""
    key = group.folder / "data" / "key.bin"
    key.write_bytes(os.urandom(32))
    digest = hashlib.sha256(base64.b64decode(POLICY)).hexdigest()
    claims = [
        [
            {"claim": "x-ms-sevsnpvm-hostdata", "equals": digest},
            {"claim": "x-ms-sevsnpvm-is-debuggable", "equals": "false"},
        ]
    ]
    config = {"key": key_of(cloud), "claims": claims}
    (group.folder / "data" / "import.json").write_text(json.dumps(config))
    tool(group, "skr", cloud, "sidecar", "import-key", "-c", "/data/import.json", "-kh", "/data/key.bin")
    return key


def settings(cloud: dict[str, str], **volume: Any) -> dict[str, str]:
    """Variables of an encfs container with one volume."""
    one = {"mount_point": "/mnt/shared/data", "key": key_of(cloud), "cache_size": "32M"} | volume
    text = base64.b64encode(json.dumps({"azure_filesystems": [one]}).encode()).decode()
    return cloud | {"EncfsSideCarArgs": text}


def image_in_blob(group: Group, cloud: dict[str, str], key: Path) -> str:
    """An image with one file in a page blob; its address."""
    (group.folder / "files").mkdir()
    (group.folder / "files" / "text").write_text("attested\n")
    (group.folder / "files").chmod(0o777)
    encfs = ROOT / ".venv" / "bin" / "encfs"
    image = group.folder / "data" / "data.img"
    run(encfs, "create", image, "--size", "32M", "--from", group.folder / "files", "--key-file", key)
    url = f"https://{cloud['BLOB_ENDPOINT']}/images/data.img"
    tool(group, "encfs", cloud, "encfs", "upload", "/data/data.img", url, "--identity")
    image.unlink()
    key.unlink()
    return url


def test_a_group_from_attestation_to_files(group: Group, cloud: dict[str, str]) -> None:
    key = import_key(group, cloud)
    secret = key.read_bytes()
    url = image_in_blob(group, cloud, key)

    # The key release sidecar, and the predecessor's test clients.
    skr = group.start("skr", "skr", ["/skr.sh"], like="skr", environment=cloud | {"LogLevel": "info"})
    check = "/usr/lib/attested-volumes/bin/healthcheck 8080 /status"
    skr.until(lambda: skr.execute(check).returncode == 0, 60, "status")
    names = cloud | {
        "AttestClientRuntimeData": base64.b64encode(b'{"said":"by the client"}').decode(),
        "SkrClientMAAEndpoint": cloud["MAA_ENDPOINT"],
        "SkrClientAKVEndpoint": cloud["MHSM_ENDPOINT"],
        "SkrClientKID": "volume",
    }
    client = ["/tests/skr/attest_client.sh"]
    attest = group.start("attest", "skr", client, like="client", environment=names)
    token_names = names | {"AttestClientMAAEndpoint": cloud["MAA_ENDPOINT"]}
    token = group.start("token", "skr", client, like="client", environment=token_names)
    release = group.start("release", "skr", ["/tests/skr/skr_client.sh"], like="client", environment=names)
    outputs = {}
    for container, name in (
        (attest, "raw"),
        (attest, "combined"),
        (token, "maatoken"),
        (release, "keyrelease"),
    ):
        path = container.bundle / "root" / f"{name}.out"
        container.until(path.exists, 60, str(path))
        outputs[name] = json.loads(path.read_text())
    assert len(bytes.fromhex(outputs["raw"]["report"])) == 1184
    assert set(outputs["combined"]) == {"endorsed_tcb", "endorsements", "evidence", "uvm_endorsements"}
    assert outputs["maatoken"]["token"].startswith("eyJ")
    jwk = json.loads(outputs["keyrelease"]["key"])
    assert base64.urlsafe_b64decode(jwk["k"] + "==") == secret
    assert (release.bundle / "root" / "keyrelease.out").stat().st_mode & 0o777 == 0o600
    assert attest.kill("TERM") == 0
    assert release.kill("TERM") == 0

    # An application that waits for its volume; nobody has mounted it yet.
    waiting = ["sh", "-c", "encfs wait /mnt/shared/data --timeout 90 && exec sleep 1000"]
    application = group.start("application", "encfs", waiting, like="application")
    names = settings(cloud, azure_url=url, azure_url_private=True, read_write=True, take_over=True)
    encfs = group.start("encfs", "encfs", ["/encfs.sh"], like="encfs", environment=names)
    encfs.said("encfs agent: ready")
    application.said("ready /mnt/shared/data")
    assert application.execute("cat /mnt/shared/data/text").stdout == "attested\n"
    wrote = application.execute("echo first >/mnt/shared/data/first && sync /mnt/shared/data/first")
    assert wrote.returncode == 0, wrote

    # Killed with everything in it. The application sees errors, and then the volume again: nothing is lost.
    encfs.kill("KILL")
    assert application.execute("cat /mnt/shared/data/first", timeout=30).stdout in ("", "first\n")
    assert application.execute("echo x >/mnt/shared/data/lost && sync /mnt/shared/data/lost").returncode != 0
    shutil.move(encfs.bundle / "log", encfs.bundle / "log.1")
    encfs = group.start("encfs", "encfs", ["/encfs.sh"], like="encfs", environment=names)
    encfs.said("encfs agent: ready")
    assert application.execute("cat /mnt/shared/data/first").stdout == "first\n"
    wrote = application.execute("echo second >/mnt/shared/data/second")
    assert wrote.returncode == 0, wrote

    # The end of the group: everything is stored, and what was not synced too.
    application.kill("KILL")
    assert encfs.kill("TERM") == 0, encfs.log
    assert skr.kill("TERM") == 0, skr.log
    script = (
        f"encfs extract {url} /run/out --identity --key-config /data/key.json --in-memory && "
        "cat /run/out/text /run/out/first /run/out/second"
    )
    (group.folder / "data" / "key.json").write_text(json.dumps({"key": key_of(cloud)}))
    extract = group.start("extract", "encfs", ["sh", "-c", script], like="extract", environment=cloud)
    assert extract.wait() == 0, extract.log
    assert extract.log.endswith("attested\nfirst\nsecond\n")
    assert not [p for p in group.mounts() if p.startswith(str(group.folder / "shared/."))]
    for container in group.containers.values():
        assert "eyJ" not in container.log
        assert secret.hex() not in container.log


def test_another_policy_gets_no_key_and_says_why(group: Group, cloud: dict[str, str]) -> None:
    url = image_in_blob(group, cloud, import_key(group, cloud))
    names = settings(cloud, azure_url=url, azure_url_private=True) | {"UVM_SECURITY_POLICY": OTHER_POLICY}
    encfs = group.start("encfs", "encfs", ["/encfs.sh"], like="encfs", environment=names)
    assert encfs.wait() == ExitCode.RELEASE_REFUSED, encfs.log
    assert "x-ms-sevsnpvm-hostdata" in encfs.log
    assert not (group.folder / "shared" / "data").is_symlink()


def test_no_privilege_of_the_volumes_sidecar_can_be_taken_away(group: Group) -> None:
    """With what docs/privileges.md lists it mounts, with less it ends and says what is missing."""
    key = group.folder / "data" / "key.bin"
    key.write_bytes(os.urandom(32))
    encfs = ROOT / ".venv" / "bin" / "encfs"
    run(encfs, "create", group.folder / "data" / "data.img", "--size", "32M", "--key-file", key)
    volume = {"image": "/data/data.img", "mount_point": "/mnt/shared/data", "raw_key": key.read_bytes().hex()}
    settings = base64.b64encode(json.dumps({"azure_filesystems": [volume]}).encode()).decode()
    names = {"EncfsSideCarArgs": settings}
    command = ["/encfs.sh", "--insecure-raw-key", "--no-http"]
    for part, code in {
        "CAP_SYS_ADMIN": ExitCode.NO_FUSE,
        "fuse": ExitCode.NO_FUSE,
        "loop-control": ExitCode.NO_LOOP,
        "loop": ExitCode.NO_LOOP,
    }.items():
        name = f"without-{part.lower().replace('_', '-')}"
        less = group.start(name, "encfs", command, like="encfs", environment=names, without=[part])
        assert less.wait() == code, f"{part}: {less.log}"
        assert "hint" in less.log
        assert not (group.folder / "shared" / "data").is_symlink()
    whole = group.start("whole", "encfs", command, like="encfs", environment=names)
    whole.said("encfs agent: ready")
    assert whole.kill("TERM") == 0, whole.log
