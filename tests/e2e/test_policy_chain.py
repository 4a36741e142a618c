"""From a template to a released key: the policy's digest is in the key's release policy, and a change is
named."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from fakes.commands import Commands
from fakes.policies import container, policy_text

from sidecar.errors import ExitCode

TEXT = policy_text(container(allow_stdio_access=False))
CHANGED = policy_text(container(allow_stdio_access=False, command=["/app", "--port", "81"]))


def template(text: bytes) -> str:
    properties = {"confidentialComputeProperties": {"ccePolicy": base64.b64encode(text).decode()}}
    return json.dumps({"resources": [{"name": "group", "properties": properties}]})


@pytest.fixture
def guest(commands: Commands, cloud: dict[str, str]) -> Commands:
    """Commands in a guest that runs under `TEXT`, and the template it was deployed from."""
    commands.environment.update(cloud)
    commands.environment["SIDECAR_SNP"] = "software"
    commands.environment["UVM_SECURITY_POLICY"] = base64.b64encode(TEXT).decode()
    (commands.folder / "template.json").write_text(template(TEXT))
    names = commands.environment
    key = {
        "kid": "chained",
        "authority": {"endpoint": names["MAA_ENDPOINT"]},
        "akv": {"endpoint": names["MHSM_ENDPOINT"]},
    }
    claims = [[{"claim": "x-ms-sevsnpvm-is-debuggable", "equals": "false"}]]
    (commands.folder / "import.json").write_text(json.dumps({"key": key, "claims": claims}))
    return commands


def test_the_chain_is_whole(guest: Commands) -> None:
    digest = hashlib.sha256(TEXT).hexdigest()
    assert guest.run("sidecar", "policy", "digest", "template.json", check=True).out == digest + "\n"
    assert guest.run("sidecar", "policy", "digest", check=True).out == digest + "\n"

    words = ("sidecar", "import-key", "-c", "import.json", "--policy", "template.json", "--json")
    imported = guest.run(*words, check=True)
    assert digest in json.dumps(json.loads(imported.out)["release_policy"])
    assert "weak security policy" not in imported.err

    names = guest.environment
    explain = ("sidecar", "explain", "--maa", names["MAA_ENDPOINT"], "--akv", names["MHSM_ENDPOINT"])
    live = (*explain, "--kid", "chained")
    assert guest.run(*live).code == ExitCode.OK

    names["UVM_SECURITY_POLICY"] = base64.b64encode(CHANGED).decode()
    refused = guest.run(*live)
    assert refused.code == ExitCode.RELEASE_REFUSED
    assert "policy digest changed since the key was imported" in refused.out
    assert f"give the policy {digest[:12]}... to see what changed" in refused.out

    both = guest.run(*live, "--security-policy", "template.json")
    assert both.code == ExitCode.RELEASE_REFUSED
    assert "command: /app --port 80 -> /app --port 81" in both.out
    as_json = json.loads(guest.run(*live, "--security-policy", "template.json", "--json").out)
    (changed,) = as_json["policy_change"]["changes"]
    assert (changed["what"], changed["after"]) == ("command", "/app --port 81")


def test_import_says_what_is_wrong_with_the_policy(guest: Commands, tmp_path: Path) -> None:
    words = ("sidecar", "import-key", "-c", "import.json", "--dry-run", "--policy", "template.json")
    (guest.folder / "template.json").write_text(template(policy_text(flags={"allow_dump_stacks": True})))
    assert "weak security policy: policy: allow_dump_stacks" in guest.run(*words, check=True).err
    two = guest.run(*words, "--policy-digest", "0" * 64)
    assert (two.code, "wanted one of" in two.err) == (ExitCode.USAGE, True)
    (guest.folder / "template.json").write_text('{"resources": []}')
    none = guest.run(*words)
    assert none.code == ExitCode.MALFORMED
    assert "sidecar: hint: sidecar policy generate" in none.err
