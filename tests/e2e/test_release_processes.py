"""The key path as processes: cloud in a box, HTTP API, import, explain, and a mount by released key."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fakes.commands import Commands, is_mounted

from encfs.errors import ExitCode
from sidecar.errors import ExitCode as SidecarExit

POLICY = "package policy\ndefault allow := false\n"
OTHER_POLICY = "package policy\ndefault allow := true\n"


@pytest.fixture
def guest(commands: Commands, cloud: dict[str, str]) -> Commands:
    """Commands in a guest under `POLICY`, with the software processor asked for by name."""
    commands.environment.update(cloud)
    commands.environment["SIDECAR_SNP"] = "software"
    commands.environment["UVM_SECURITY_POLICY"] = base64.b64encode(POLICY.encode()).decode()
    (commands.folder / "policy.rego").write_text(POLICY)
    return commands


def config(commands: Commands, kid: str, **more: Any) -> None:
    """Write `import.json` and `key.json` for a key in the managed HSM."""
    names = commands.environment
    key = {
        "kid": kid,
        "authority": {"endpoint": names["MAA_ENDPOINT"]},
        "akv": {"endpoint": names["MHSM_ENDPOINT"]},
    }
    claims = [[{"claim": "x-ms-sevsnpvm-is-debuggable", "equals": "false"}]]
    (commands.folder / "import.json").write_text(
        json.dumps({"key": key | more.pop("key", {}), "claims": claims} | more)
    )
    (commands.folder / "key.json").write_text(
        json.dumps({"key": key} | {k: v for k, v in more.items() if k == "key_derivation"})
    )


def import_key(commands: Commands, *words: str) -> Any:
    """Import with the policy's digest demanded; what the command says as JSON."""
    base = ("sidecar", "import-key", "-c", "import.json", "--policy-digest", "policy.rego", "--json")
    return json.loads(commands.run(*base, *words, check=True).out)


@pytest.mark.fuse
@pytest.mark.root
def test_an_anchor_in_the_vault_tells_an_older_image(guest: Commands) -> None:
    """In a tag of the volume's own key, written through the identity that released it."""
    config(guest, "anchored")
    import_key(guest, "-kh", "key.bin")
    words = ("--size", "32M", "--key-file", "key.bin", "--integrity", "hmac-sha256")
    guest.run("encfs", "create", "data.img", *words, check=True)
    mnt, image = guest.folder / "mnt", guest.folder / "data.img"
    mount = (
        "encfs",
        "mount",
        image,
        mnt,
        "--key-config",
        "key.json",
        "--anchor",
        "vault",
        "--require",
        "rollback",
    )
    guest.run(*mount, check=True)
    guest.run("encfs", "unmount", mnt, check=True)
    old = image.read_bytes()
    guest.run(*mount, check=True)
    (mnt / "file").write_text("kept")
    guest.run("encfs", "unmount", mnt, check=True)
    new = image.read_bytes()
    image.write_bytes(old)
    refused = guest.run(*mount)
    assert (refused.code, "anchored was" in refused.err) == (ExitCode.ROLLED_BACK, True), refused
    image.write_bytes(new)
    guest.run(*mount, check=True)
    assert (mnt / "file").read_text() == "kept"
    guest.run("encfs", "unmount", mnt, check=True)


@pytest.mark.fuse
@pytest.mark.root
def test_a_volume_opens_with_a_released_key_and_only_under_its_policy(guest: Commands) -> None:
    config(guest, "volume")
    imported = import_key(guest, "-kh", "key.bin")
    made = guest.run(
        "encfs", "create", "data.img", "--size", "32M", "--key-file", "key.bin", "--json", check=True
    )
    assert json.loads(made.out)["key_check_value"] == imported["key_check_value"]
    mnt = guest.folder / "mnt"
    (guest.folder / "key.bin").unlink()
    guest.run("encfs", "mount", "data.img", mnt, "--key-config", "key.json", check=True)
    (mnt / "file").write_text("kept")
    guest.run("encfs", "unmount", mnt, check=True)

    guest.environment["UVM_SECURITY_POLICY"] = base64.b64encode(OTHER_POLICY.encode()).decode()
    refused = guest.run("encfs", "mount", "data.img", mnt, "--key-config", "key.json")
    assert refused.code == ExitCode.RELEASE_REFUSED
    assert "x-ms-sevsnpvm-hostdata" in refused.err
    assert "the security policy is not the one the key was imported for" in refused.err
    assert "encfs: hint: start the guest with the policy whose SHA-256 is" in refused.err
    assert not is_mounted(mnt)


@pytest.mark.fuse
@pytest.mark.root
def test_an_rsa_key_opens_the_volume_through_hkdf(guest: Commands) -> None:
    derivation = {"salt": "00112233445566778899aabbccddeeff", "label": "disk"}
    config(guest, "rsa", key={"kty": "RSA-HSM"}, key_derivation=derivation)
    imported = import_key(guest, "-out")
    assert stat.S_IMODE((guest.folder / "keyfile.bin").stat().st_mode) == 0o600
    assert stat.S_IMODE((guest.folder / "private_key.pem").stat().st_mode) == 0o600
    made = guest.run(
        "encfs", "create", "rsa.img", "--size", "32M", "--key-file", "keyfile.bin", "--json", check=True
    )
    assert json.loads(made.out)["key_check_value"] == imported["key_check_value"]
    guest.run("encfs", "check", "rsa.img", "--key-config", "key.json", check=True)


@pytest.mark.fuse
def test_without_hardware_and_without_asking_there_is_no_report(guest: Commands) -> None:
    config(guest, "none")
    del guest.environment["SIDECAR_SNP"]
    (guest.folder / "x.img").touch()
    refused = guest.run("encfs", "mount", "x.img", guest.folder / "mnt", "--key-config", "key.json")
    assert refused.code == ExitCode.NO_REPORT
    assert "--snp software" in refused.err
    assert guest.run("sidecar", "report").code == SidecarExit.REPORT_UNAVAILABLE


def test_import_says_no_secret_unless_asked(guest: Commands) -> None:
    config(guest, "quiet")
    key = (guest.folder / "key.bin").read_bytes()
    done = guest.run(
        "sidecar", "import-key", "-c", "import.json", "-kh", key.hex(), "--policy-digest", "policy.rego"
    )
    assert done.code == 0
    for text in (done.out, done.err):
        assert key.hex() not in text
        assert base64.urlsafe_b64encode(key).decode().rstrip("=") not in text
    shown = import_key(guest, "-kh", "key.bin", "--show-secrets", "--dry-run")
    assert (shown["symmetric_key"], shown["kid"]) == (key.hex(), None)


def test_import_warns_of_a_weak_policy_and_refuses_none(guest: Commands) -> None:
    config(guest, "weak")
    done = guest.run("sidecar", "import-key", "-c", "import.json", "--dry-run")
    assert (done.code, "weak release policy" in done.err) == (0, True)
    (guest.folder / "import.json").write_text(
        (guest.folder / "import.json").read_text().replace('"claims": [[', '"claims": [], "x": [[')
    )
    assert guest.run("sidecar", "import-key", "-c", "import.json", "--dry-run").code == SidecarExit.MALFORMED


def test_explain_live_and_from_files(guest: Commands) -> None:
    config(guest, "explained")
    import_key(guest)
    names = guest.environment
    words = ("sidecar", "explain", "--maa", names["MAA_ENDPOINT"], "--akv", names["MHSM_ENDPOINT"])
    assert guest.run(*words, "--kid", "explained", check=True).out.rstrip().endswith("succeeded")
    guest.environment["UVM_SECURITY_POLICY"] = base64.b64encode(OTHER_POLICY.encode()).decode()
    refused = guest.run(*words, "--kid", "explained")
    assert refused.code == SidecarExit.RELEASE_REFUSED
    assert "FAIL x-ms-sevsnpvm-hostdata" in refused.out
    assert "sidecar import-key --policy-digest" in refused.out
    suggested = guest.run("sidecar", "explain", "--maa", names["MAA_ENDPOINT"], "--suggest", check=True).out
    (guest.folder / "policy.json").write_text(suggested)
    token = guest.run("sidecar", "attest", "--maa", names["MAA_ENDPOINT"], "--token", check=True).out
    (guest.folder / "token").write_text(token)
    files = ("sidecar", "explain", "--token", "token", "--policy", "policy.json", "--json")
    assert json.loads(guest.run(*files, check=True).out)["released"] is True


def test_keys_can_be_administered(guest: Commands) -> None:
    config(guest, "admin")
    import_key(guest)
    words = ("--akv", guest.environment["MHSM_ENDPOINT"])
    listed = json.loads(guest.run("sidecar", "keys", "list", *words, check=True).out)
    assert any("/keys/admin" in item["kid"] for item in listed)
    shown = json.loads(guest.run("sidecar", "keys", "show", *words, "--kid", "admin", check=True).out)
    assert shown["release_policy"]["anyOf"]
    guest.run("sidecar", "keys", "delete", *words, "--kid", "admin", check=True)
    gone = guest.run("sidecar", "keys", "show", *words, "--kid", "admin")
    assert (gone.code, "404" in gone.err) == (SidecarExit.RELEASE_REFUSED, True)
    guest.run("sidecar", "keys", "recover", *words, "--kid", "admin", check=True)
    guest.run("sidecar", "keys", "delete", *words, "--kid", "admin", check=True)
    guest.run("sidecar", "keys", "purge", *words, "--kid", "admin", check=True)


def ask(address: str, path: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data=data)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_http_api_as_a_process(guest: Commands) -> None:
    config(guest, "http")
    import_key(guest, "-kh", "key.bin")
    names = guest.environment
    with guest.serving(
        "sidecar", "serve", "--port", "0", ready="sidecar: ready http://127.0.0.1:"
    ) as process:
        port = port_of(process)
        address = f"http://127.0.0.1:{port}"
        assert ask(address, "/status") == (200, {"message": "Status OK"})
        code, body = ask(address, "/attest/raw", {"runtime_data": "aGVsbG8="})
        assert (code, len(body["report"])) == (200, 2368)
        endpoint = {"maa_endpoint": names["MAA_ENDPOINT"]}
        code, body = ask(address, "/attest/maa", endpoint | {"runtime_data": "e30="})
        assert (code, body["token"].count(".")) == (200, 2)
        release = endpoint | {"akv_endpoint": names["MHSM_ENDPOINT"], "kid": "http"}
        code, body = ask(address, "/key/release", release)
        assert code == 200, body
        key = base64.urlsafe_b64encode((guest.folder / "key.bin").read_bytes()).decode().rstrip("=")
        assert json.loads(body["key"])["k"] == key
        assert ask(address, "/key/release", release | {"kid": "nothing"})[0] == 403
        assert ask(address, "/nowhere")[0] == 404
        assert not listens_outside(port), "the API must be on loopback only"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def port_of(process: subprocess.Popen[str]) -> int:
    """The port that a process listens on."""
    lines = Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
    inodes = {
        os.readlink(link).removeprefix("socket:[").rstrip("]")
        for link in Path(f"/proc/{process.pid}/fd").iterdir()
        if "socket:" in os.readlink(link)
    }
    (port,) = {
        int(fields[1].split(":")[1], 16)
        for fields in (line.split() for line in lines)
        if fields[3] == "0A" and fields[9] in inodes
    }
    return port


def listens_outside(port: int) -> bool:
    """Whether anything answers on the port at an address that is not loopback."""
    for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
        if not str(address).startswith("127."):
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((str(address), port)) == 0:
                    return True
    return False


def test_serve_refuses_to_listen_outside(guest: Commands) -> None:
    refused = guest.run("sidecar", "serve", "--host", "0.0.0.0", "--port", "0")
    assert (refused.code, "loopback" in refused.err) == (SidecarExit.USAGE, True)


def test_no_key_reaches_a_stranger(guest: Commands) -> None:
    config(guest, "stranger")
    words = ("sidecar", "release", "--maa", guest.environment["MAA_ENDPOINT"], "--kid", "x")
    refused = guest.run(*words, "--akv", "vault.evil.example")
    assert (refused.code, "not allowed" in refused.err) == (SidecarExit.HOST_NOT_ALLOWED, True)


def test_verify_a_report_of_the_software_processor(guest: Commands) -> None:
    report = guest.run("sidecar", "report", "--format", "hex", check=True).out
    (guest.folder / "report.hex").write_text(report)
    pem = json.loads(urllib.request.urlopen(thim(guest), timeout=10).read())
    (guest.folder / "chain.pem").write_text(pem["vcekCert"] + pem["certificateChain"])
    words = ("sidecar", "verify", "report.hex", "--certs", "chain.pem")
    untrusted = guest.run(*words)
    assert untrusted.code == SidecarExit.CERTIFICATE_REJECTED, untrusted
    trusted = guest.run(
        *words, "--software-root", guest.environment["SIDECAR_SNP_DIRECTORY"], "--json", check=True
    )
    assert json.loads(trusted.out)["verified"] is True
    assert json.loads(trusted.out)["is_hardware"] is False


def thim(guest: Commands) -> urllib.request.Request:
    return urllib.request.Request(guest.environment["SIDECAR_THIM_ENDPOINT"], headers={"Metadata": "true"})


def test_verify_the_real_report(commands: Commands, shared_snp: Path) -> None:
    words = ("sidecar", "verify", shared_snp / "snp_report.bin", "--certs")
    done = commands.run(*words, shared_snp / "uvm_host_amd_certificate.json", "--json", check=True)
    assert json.loads(done.out)["is_hardware"] is True
