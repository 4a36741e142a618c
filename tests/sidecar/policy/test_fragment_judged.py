"""Fragments before a real Rego engine: what our import statement accepts may run, and nothing else."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes.policies import CAPABILITIES, container, env
from fakes.uvm import Uvm, rule_files

from sidecar.errors import EndorsementRejected
from sidecar.policy.containers_defaults import infrastructure_fragment, pause_container
from sidecar.policy.fragment import Fragment, load_signer, sign_fragment, verify_fragment
from sidecar.policy.fragment_text import build_fragment_text, import_of
from sidecar.policy.parse_model import FragmentImport
from sidecar.policy.rego import Policy
from sidecar.policy.testchain import make_test_chain

FEED = "registry.example/app"
LAYERS = ["a" * 64, "b" * 64]
ENTRY = container(mounts=[], env_rules=[env("PATH=/bin"), env("MODE=fast", required=True)])


@pytest.fixture(params=rule_files(), ids=lambda path: path.parent.name)
def rules(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def signed() -> bytes:
    chain = make_test_chain(now=datetime(2026, 1, 1, tzinfo=UTC))
    text = build_fragment_text("contoso", "10", [ENTRY], imports=[infrastructure_fragment("4")])
    return sign_fragment(text, load_signer(chain.key_pem, chain.chain_pem), feed=FEED)


@pytest.fixture
def fragment(signed: bytes) -> Fragment:
    return verify_fragment(signed)


def statement(fragment: Fragment, **changes: Any) -> FragmentImport:
    made = import_of(fragment.content, issuer=fragment.issuer, feed=fragment.feed, minimum_svn="9")
    return replace(made, **changes)


def guest(rules: Path, *imports: FragmentImport) -> Uvm:
    fragments = (infrastructure_fragment("4"), *(one.to_json() for one in imports))
    return Uvm(Policy((pause_container(stdio=True, signals=()),), fragments).text(), rules)


def load(uvm: Uvm, fragment: Fragment) -> bool:
    return uvm.load(
        fragment.text.decode(),
        issuer=fragment.issuer,
        feed=fragment.feed,
        namespace=fragment.content.namespace,
    )


def request(**changes: Any) -> dict[str, Any]:
    capabilities = {
        name: [] if name in ("ambient", "inheritable") else CAPABILITIES
        for name in ("ambient", "bounding", "effective", "inheritable", "permitted")
    }
    asked = {
        "containerID": "c1",
        "argList": ["/app", "--port", "80"],
        "envList": ["PATH=/bin", "MODE=fast"],
        "workingDir": "/",
        "sandboxDir": "/run/gcs/c/sandbox",
        "hugePagesDir": "/run/gcs/c/hugepages",
        "mounts": [],
        "privileged": False,
        "noNewPrivileges": False,
        "umask": "0022",
        "user": {"id": "0", "name": "root"},
        "groups": [],
        "capabilities": capabilities,
        "seccompProfileSHA256": "",
        "devices": [],
        "isSandboxContainer": False,
    }
    return {**asked, **changes}


def test_a_container_of_a_fragment_starts_once_it_is_loaded(rules: Path, fragment: Fragment) -> None:
    uvm = guest(rules, statement(fragment))
    assert not uvm.start(LAYERS, request())
    assert load(uvm, fragment)
    assert uvm.start(LAYERS, request())


@pytest.mark.parametrize("changes", [{"argList": ["/app"]}, {"envList": ["PATH=/bin"]}])
def test_another_container_does_not(rules: Path, fragment: Fragment, changes: dict[str, Any]) -> None:
    uvm = guest(rules, statement(fragment))
    assert load(uvm, fragment)
    assert not uvm.start(LAYERS, request(**changes))


@pytest.mark.parametrize(
    ("changes", "loaded"),
    [
        ({"minimum_svn": "10"}, True),
        ({"minimum_svn": "11"}, False),
        ({"feed": f"{FEED}:1"}, False),
        ({"issuer": "did:x509:0:sha256:x::subject:CN:y"}, False),
    ],
)
def test_an_import_that_does_not_fit(
    rules: Path, signed: bytes, fragment: Fragment, changes: dict[str, Any], loaded: bool
) -> None:
    """The engine and `verify_fragment` agree."""
    accept = statement(fragment, **changes)
    assert load(guest(rules, accept), fragment) is loaded
    with nullcontext() if loaded else pytest.raises(EndorsementRejected):
        verify_fragment(signed, accept=[accept])
