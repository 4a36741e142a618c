"""`sidecar policy ...` as a process: arguments, streams and exit codes; `securitypolicydigest`."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path

import pytest
from fakes.commands import Commands
from fakes.policies import OPEN_DOOR, container, policy_text

from sidecar.errors import ExitCode

TEXT = policy_text(container(allow_stdio_access=False))
DIGEST = hashlib.sha256(TEXT).hexdigest()
ENCODED = base64.b64encode(TEXT)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    (tmp_path / "a.rego").write_bytes(TEXT)
    (tmp_path / "b.rego").write_bytes(policy_text(container()))
    (tmp_path / "bad.rego").write_bytes(b"package policy\ndefault allow := true\n")
    return Commands(tmp_path)


def test_digest_of_everything(commands: Commands) -> None:
    digest = ("sidecar", "policy", "digest")
    assert commands.run(*digest, "a.rego", check=True).out == f"{DIGEST}\n"
    assert commands.run(*digest, "-", data=ENCODED, check=True).out == f"{DIGEST}\n"
    assert commands.run(*digest, "-p", ENCODED.decode(), check=True).out == f"{DIGEST}\n"
    assert commands.run(*digest, "a.rego", "--check", DIGEST.upper(), check=True).err == ""
    wrong = commands.run(*digest, "a.rego", "--check", "0" * 64)
    assert (wrong.code, wrong.out) == (ExitCode.POLICY_REJECTED, f"{DIGEST}\n")
    none = commands.run(*digest)
    assert (none.code, "runs under no security policy" in none.err) == (ExitCode.USAGE, True)
    assert commands.run(*digest, "a.rego", "-f", "b.rego").code == ExitCode.USAGE
    commands.environment["UVM_SECURITY_POLICY"] = ENCODED.decode()
    assert commands.run(*digest, check=True).out == f"{DIGEST}\n"


def test_the_predecessors_tool(commands: Commands) -> None:
    done = commands.run("securitypolicydigest", "-p", ENCODED.decode(), "-v", check=True)
    assert done.out == f"{DIGEST}\n"
    assert done.err == TEXT.decode().rstrip("\n") + "\n"
    assert commands.run("securitypolicydigest", "-f", "a.rego", check=True).out == f"{DIGEST}\n"


def test_inspect(commands: Commands) -> None:
    done = commands.run("sidecar", "policy", "inspect", "a.rego", check=True)
    assert done.out.startswith(f"digest {DIGEST}\n")
    assert "/app --port 80" in done.out
    assert "\x1b" not in done.out
    assert "\x1b[1m" in commands.run("sidecar", "policy", "inspect", "a.rego", "--colour", "always").out
    shown = json.loads(commands.run("sidecar", "policy", "inspect", "a.rego", "--json", check=True).out)
    assert shown["digest"] == DIGEST
    assert shown["containers"][0]["name"] == "app"
    bad = commands.run("sidecar", "policy", "inspect", "bad.rego")
    assert bad.code == ExitCode.MALFORMED
    assert "security policy: line 2: " in bad.err
    assert "sidecar: hint: only generated policies" in bad.err


def test_diff(commands: Commands) -> None:
    done = commands.run("sidecar", "policy", "diff", "a.rego", "b.rego")
    assert done.code == ExitCode.POLICY_REJECTED
    assert "standard streams open to the host: no -> yes" in done.out
    assert DIGEST in done.out
    assert commands.run("sidecar", "policy", "diff", "a.rego", "a.rego").code == ExitCode.OK
    commands.environment["UVM_SECURITY_POLICY"] = ENCODED.decode()
    assert commands.run("sidecar", "policy", "diff", "a.rego").code == ExitCode.OK
    shown = json.loads(commands.run("sidecar", "policy", "diff", "b.rego", "--json").out)
    assert [change["kind"] for change in shown["changes"]] == ["changed"]


def test_lint(commands: Commands) -> None:
    lint = ("sidecar", "policy", "lint")
    assert commands.run(*lint, "a.rego").code == ExitCode.OK
    assert commands.run(*lint, "a.rego", "--fail-on", "note").code == ExitCode.POLICY_REJECTED
    assert commands.run(*lint, "b.rego", "--fail-on", "warning").code == ExitCode.POLICY_REJECTED
    opened = commands.run(*lint, "-", data=OPEN_DOOR)
    assert (opened.code, opened.out.startswith("error open-policy")) == (ExitCode.POLICY_REJECTED, True)
    never = commands.run(*lint, "-", "--fail-on", "never", "--json", data=OPEN_DOOR, check=True)
    assert json.loads(never.out)[0]["code"] == "open-policy"


def test_denial(commands: Commands) -> None:
    decision = {"decision": "deny", "reason": {"errors": ["invalid command"]}, "input": {"argList": ["x"]}}
    event = b"policyDecision< " + base64.b64encode(json.dumps(decision).encode()) + b" >policyDecision"
    for given, data in (("-", event), (event.decode(), b"")):
        done = commands.run("sidecar", "policy", "denial", given, "--policy", "a.rego", data=data, check=True)
        assert "asked for: x\n    admitted:  /app --port 80" in done.out
    nothing = commands.run("sidecar", "policy", "denial", data=b"no such thing.")
    assert (nothing.code, "hint: paste the event" in nothing.err) == (ExitCode.MALFORMED, True)


def test_a_fragment_from_its_chain_to_its_import(commands: Commands) -> None:
    fragment = ("sidecar", "policy", "fragment")
    issuer = commands.run("sidecar", "policy", "testchain", "keys", "--name", "A B", check=True).out.strip()
    assert issuer.endswith("::subject:CN:A%20B")
    for name in ("key.pem", "chain.pem"):
        assert stat.S_IMODE((commands.folder / "keys" / name).stat().st_mode) == 0o600
    again = commands.run("sidecar", "policy", "testchain", "keys")
    assert (again.code, "nothing was written" in again.err) == (ExitCode.USAGE, True)

    signing = ("-k", "keys/key.pem", "--chain", "keys/chain.pem", "-f", "registry.example/app")
    made = commands.run(
        *fragment, "-n", "contoso", "--svn", "2", "--from-policy", "a.rego", *signing, check=True
    )
    assert made.out.startswith('package contoso\n\nsvn := "2"\n')
    assert (commands.folder / "contoso.rego").read_text() == made.out
    assert f"signed as {issuer}" in made.err
    assert "PRIVATE" not in made.out + made.err

    verified = commands.run(*fragment, "verify", "contoso.rego.cose", "--json", check=True)
    shown = json.loads(verified.out)
    assert (shown["issuer"], shown["feed"], shown["svn"]) == (issuer, "registry.example/app", "2")
    assert shown["algorithm"] == "ES384"

    statement = commands.run(*fragment, "-g", "-p", "contoso.rego.cose", "--minimum-svn", "1", check=True).out
    (one,) = json.loads(statement)["fragments"]
    assert (one["issuer"], one["minimum_svn"]) == (issuer, "1")
    for _ in range(2):
        commands.run(*fragment, "-g", "-p", "contoso.rego.cose", "-j", "imports.json", check=True)
    assert len(json.loads((commands.folder / "imports.json").read_text())["fragments"]) == 1

    commands.run(*fragment, "verify", "contoso.rego.cose", "-j", "imports.json", check=True)
    wanted = ("--issuer", issuer, "--feed", "registry.example/app")
    commands.run(*fragment, "verify", "contoso.rego.cose", *wanted, "--minimum-svn", "2", check=True)
    old = commands.run(*fragment, "verify", "contoso.rego.cose", *wanted, "--minimum-svn", "3")
    assert (old.code, "svn 2, wanted at least 3" in old.err) == (ExitCode.ENDORSEMENT_REJECTED, True)
    other = commands.run(*fragment, "verify", "contoso.rego.cose", "--policy", "a.rego")
    assert (other.code, ", wanted did:x509:0:sha256:I__iuL25" in other.err) == (
        ExitCode.ENDORSEMENT_REJECTED,
        True,
    )
    inspected = commands.run(*fragment, "inspect", "contoso.rego.cose", check=True)
    assert "the signature was not checked" in inspected.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "wanted --namespace and --svn"),
        (("-n", "a", "--svn", "1"), "no containers"),
        (("-n", "a", "--svn", "1", "-k", "x"), "--key and --chain: wanted both"),
        (("-n", "a", "--svn", "1", "-k", "x", "--chain", "y"), "a signed fragment has a feed"),
        (("-n", "policy", "--svn", "1", "--from-policy", "a.rego"), "(reserved)"),
        (("-n", "a", "--svn", "1", "--from-policy", "a.rego", "--container", "z"), "no container 'z'"),
        (("-n", "a", "--svn", "1", "--with-containers", "[{}]"), "no layers"),
        (("-g",), "--fragment-path FILE"),
    ],
)  # fmt: skip
def test_fragments_that_are_not_made(commands: Commands, words: tuple[str, ...], message: str) -> None:
    done = commands.run("sidecar", "policy", "fragment", *words)
    assert done.code in (ExitCode.USAGE, ExitCode.MALFORMED)
    assert message in done.err
    assert not (commands.folder / "a.rego.cose").exists()
