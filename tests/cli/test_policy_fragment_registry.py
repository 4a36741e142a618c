"""`sidecar policy fragment` and `generate -f` against a real registry, as processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakes.commands import Commands
from fakes.policies import container, policy_text
from fakes.registries import get, put_image
from fakes.registry import run_registry

from sidecar.errors import ExitCode
from sidecar.policy.testchain import make_test_chain

pytestmark = pytest.mark.registry
FRAGMENT = ("sidecar", "policy", "fragment")
SIGNING = ("-k", "keys/key.pem", "--chain", "keys/chain.pem")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running.host


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    (tmp_path / "a.rego").write_bytes(policy_text(container(allow_stdio_access=False)))
    chain = make_test_chain(now=datetime.now(UTC))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "key.pem").write_bytes(chain.key_pem)
    (tmp_path / "keys" / "chain.pem").write_bytes(chain.chain_pem)
    return Commands(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")})


def test_attached_pulled_and_imported(commands: Commands, host: str) -> None:
    image = f"{host}/app:1.0"
    put_image(host, "app", "1.0")
    said = ("-n", "contoso", "--svn", "3", "--from-policy", "a.rego", "--no-print")
    made = commands.run(*FRAGMENT, *said, *SIGNING, "-u", "--image-target", image, check=True)
    assert f"attached to {image} as sha256:" in made.err

    listed = json.loads(commands.run(*FRAGMENT, "list", image, "--json", check=True).out)
    assert [(one["feed"], one["svn"]) for one in listed] == [(f"{host}/app", "3")]
    commands.run(*FRAGMENT, "-g", "--image", image, "--minimum-svn", "2", "-j", "imports.json", check=True)

    (commands.folder / "pulled").mkdir()
    pulled = commands.run(*FRAGMENT, "pull", image, "-j", "imports.json", "--directory", "pulled", check=True)
    assert pulled.out == "pulled/contoso.rego.cose\n"
    signed = (commands.folder / "contoso.rego.cose").read_bytes()
    assert (commands.folder / pulled.out.strip()).read_bytes() == signed

    again = commands.run(*FRAGMENT, "attach", "contoso.rego.cose", image, check=True)
    assert again.out.strip() == listed[0]["digest"]
    assert get(f"http://{host}/v2/app/manifests/{listed[0]['digest']}")

    newer = (commands.folder / "imports.json").read_text().replace('"2"', '"4"')
    (commands.folder / "imports.json").write_text(newer)
    refused = commands.run(*FRAGMENT, "pull", image, "-j", "imports.json")
    assert (refused.code, "svn 3, wanted at least 4" in refused.err) == (ExitCode.ENDORSEMENT_REJECTED, True)


def test_pushed_by_itself(commands: Commands, host: str) -> None:
    feed = f"{host}/fragments/contoso"
    said = ("-n", "contoso", "--svn", "3", "--from-policy", "a.rego", "--no-print", "-f", feed)
    made = commands.run(*FRAGMENT, *said, *SIGNING, "-u", check=True)
    assert f"pushed to {feed} as sha256:" in made.err
    for tag in ("3", "latest"):
        statement = commands.run(*FRAGMENT, "-g", "-p", f"{feed}:{tag}", check=True).out
        (one,) = json.loads(statement)["fragments"]
        assert (one["feed"], one["minimum_svn"]) == (feed, "3")
    pushed = commands.run(*FRAGMENT, "push", "contoso.rego.cose", f"{feed}:mine", check=True)
    assert pushed.out.startswith("sha256:")


def test_a_policy_leaves_out_what_an_attached_fragment_admits(commands: Commands, host: str) -> None:
    image = f"{host}/covered:1.0"
    put_image(host, "covered", "1.0")
    generate = ("sidecar", "policy", "generate", "--image", image, "--outraw")
    whole = commands.run(*generate, check=True).out
    (commands.folder / "whole.rego").write_text(whole.rstrip("\n"))

    said = ("-n", "contoso", "--svn", "3", "--image", image, "--no-print")
    commands.run(*FRAGMENT, *said, *SIGNING, "-u", "--image-target", image, check=True)
    commands.run(*FRAGMENT, "-g", "--image", image, "-j", "imports.json", check=True)
    short = commands.run(*generate, "-f", "-j", "imports.json", check=True)
    (commands.folder / "short.rego").write_text(short.out.rstrip("\n"))
    assert short.err.count("warning: no fragments") == 0
    names = {
        name: [
            entry["name"]
            for entry in json.loads(
                commands.run("sidecar", "policy", "inspect", name, "--json", check=True).out
            )["containers"]
        ]
        for name in ("whole.rego", "short.rego")
    }
    assert names == {"whole.rego": [image, "pause-container"], "short.rego": ["pause-container"]}
    changed = commands.run("sidecar", "policy", "diff", "whole.rego", "short.rego").out
    assert f"- container: {image}" in changed
    assert f"fragment {host}/covered" in changed

    # The policy that is short accepts the fragment, and no other signer's.
    commands.run(*FRAGMENT, "verify", "contoso.rego.cose", "--policy", "short.rego", check=True)
    commands.run("sidecar", "policy", "testchain", "others", check=True)
    others = ("-k", "others/key.pem", "--chain", "others/chain.pem", "-f", f"{host}/covered")
    commands.run(*FRAGMENT, *said, *others, "--output-filename", "other", check=True)
    refused = commands.run(*FRAGMENT, "verify", "other.rego.cose", "--policy", "short.rego")
    assert refused.code == ExitCode.ENDORSEMENT_REJECTED


def test_lint_looks_at_the_images(commands: Commands, host: str) -> None:
    image = f"{host}/linted:1.0"
    put_image(host, "linted", "1.0")
    made = commands.run("sidecar", "policy", "generate", "--image", image, "--outraw", check=True).out
    (commands.folder / "made.rego").write_text(made.rstrip("\n"))
    lint = ("sidecar", "policy", "lint", "made.rego", "--images", "--json")
    assert {f["code"] for f in json.loads(commands.run(*lint, check=True).out)} == {
        "env-dropping",
        "mutable-tag",
        "stdio",
    }
    put_image(host, "linted", "1.0", file="deep/below/file")
    found = commands.run(*lint)
    assert found.code == ExitCode.POLICY_REJECTED
    codes = [f["code"] for f in json.loads(found.out)]
    assert codes[0] == "stale-layers"
    assert "implicit-parents" in codes


def test_what_does_not_verify_is_neither_pushed_nor_pulled(commands: Commands, host: str) -> None:
    (commands.folder / "bad.cose").write_bytes(b"\xd2\x84\x40\xa0\x40\x40")
    put_image(host, "bad", "1.0")
    for action in (("attach", "bad.cose", f"{host}/bad:1.0"), ("push", "bad.cose", f"{host}/bad:2.0")):
        assert commands.run(*FRAGMENT, *action).code == ExitCode.MALFORMED
    nothing = commands.run(*FRAGMENT, "pull", f"{host}/bad:1.0")
    assert (nothing.code, "no fragments are attached" in nothing.err) == (ExitCode.USAGE, True)
    absent = commands.run(*FRAGMENT, "list", f"{host}/absent:1.0")
    assert (absent.code, "there is no such thing" in absent.err) == (ExitCode.USAGE, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-u",), "only a signed fragment can be uploaded"),
        (("--image-target", "x", *SIGNING), "goes with --upload-fragment"),
        (("-g",), "wanted --fragment-path FILE, or --image"),
        (("--image", "a", "-i", "b"), "wanted one of them"),
    ],
)
def test_options_that_do_not_go_together(commands: Commands, words: tuple[str, ...], message: str) -> None:
    done = commands.run(*FRAGMENT, "-n", "contoso", "--svn", "1", *words)
    assert (done.code, message in done.err) == (ExitCode.USAGE, True)


def test_a_template_names_a_standalone_fragment(commands: Commands, host: str) -> None:
    feed = f"{host}/fragments/standalone"
    said = ("-n", "contoso", "--svn", "3", "--from-policy", "a.rego", "--no-print", "-f", feed)
    commands.run(*FRAGMENT, *said, *SIGNING, "-u", check=True)
    put_image(host, "standalone", "1.0")
    container = {"name": "c", "properties": {"image": f"{host}/standalone:1.0"}}
    properties = {
        "containers": [container],
        "confidentialComputeProperties": {"standaloneFragments": [f"{feed}:3"]},
    }
    group = {"type": "Microsoft.ContainerInstance/containerGroups", "name": "g", "properties": properties}
    (commands.folder / "t.json").write_text(json.dumps({"resources": [group]}))
    done = commands.run("sidecar", "policy", "generate", "-a", "t.json", "--outraw", check=True)
    (statement,) = json.loads(commands.run(*FRAGMENT, "-g", "-p", f"{feed}:3", check=True).out)["fragments"]
    fragments = json.loads(done.out.partition("fragments := ")[2].partition("\n\n")[0])
    assert fragments[1:] == [statement]
