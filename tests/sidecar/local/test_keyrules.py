"""What vaults take: the error table of secure key release, in both dialects."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from fakes import pki

from sidecar.akvkeys import Attributes, CreateRequest, ImportRequest, PolicyEnvelope, UpdateRequest
from sidecar.jwk import Jwk, jwk_of_private, jwk_of_secret
from sidecar.local.dialect import MANAGED_HSM, VAULT, Dialect
from sidecar.local.keyrules import accept_create, accept_import, accept_update
from sidecar.local.refusal import Refusal
from sidecar.local.storedkey import StoredKey
from sidecar.releasepolicy import build_policy

RSA = jwk_of_private(pki.rsa_key(), kty="RSA-HSM")
OCT = jwk_of_secret(b"s" * 32, kty="oct-HSM")
POLICY = PolicyEnvelope.of(build_policy(["https://a"], [[("x", "1")]]))
OTHER = PolicyEnvelope.of(build_policy(["https://a"], [[("x", "2")]]))
EXPORTABLE = Attributes(exportable=True)


def imported(
    dialect: Dialect = VAULT,
    key: Jwk = RSA,
    attributes: Attributes = EXPORTABLE,
    policy: PolicyEnvelope | None = POLICY,
    existing: StoredKey | None = None,
    hsm: bool | None = True,
) -> StoredKey:
    request = ImportRequest(key, hsm, attributes, release_policy=policy)
    return accept_import(dialect, "disk", request, existing, 100)


def test_accepted_import() -> None:
    key = imported()
    assert key.jwk.kty == "RSA-HSM"
    assert key.jwk.key_ops == ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey")
    assert key.attributes == Attributes(
        enabled=True,
        exportable=True,
        created=100,
        updated=100,
        recovery_level="CustomizedRecoverable+Purgeable",
        recoverable_days=7,
    )
    assert len(key.version) == 32
    assert imported().version != key.version


def test_kinds() -> None:
    software = replace(RSA, kty="RSA")
    assert imported(key=software, hsm=True).jwk.kty == "RSA-HSM"
    assert imported(key=software, hsm=False, attributes=Attributes(), policy=None).jwk.kty == "RSA"
    assert imported(MANAGED_HSM, key=software, hsm=None).jwk.kty == "RSA-HSM"
    assert imported(MANAGED_HSM, key=replace(OCT, kty="oct")).jwk.kty == "oct-HSM"


IMMUTABLE = imported(policy=replace(POLICY, immutable=True))
PLAIN = imported(attributes=Attributes(), policy=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": None}, "AKV.SKR.1004: Exportable keys must have release policy."),
        ({"policy": PolicyEnvelope(b"")}, "AKV.SKR.1004: Exportable keys must have release policy."),
        ({"attributes": Attributes()}, "AKV.SKR.1005: Non-exportable keys must not have release policy."),
        ({"attributes": Attributes(exportable=False)}, "AKV.SKR.1005"),
        ({"key": replace(RSA, kty="RSA"), "hsm": False}, "AKV.SKR.1006"),
        ({"policy": PolicyEnvelope(b"{}")}, "Release policy is invalid: release policy: version"),
        ({"policy": PolicyEnvelope(b"not json")}, "Release policy is invalid"),
        ({"existing": PLAIN}, "AKV.SKR.1003"),
        (
            {"existing": IMMUTABLE, "policy": OTHER},
            "AKV.SKR.1020: Immutable Key Release Policy cannot be modified.",
        ),
        ({"existing": IMMUTABLE}, "AKV.SKR.1020"),
        ({"key": OCT}, "not supported by vaults"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal) as caught:
        imported(**changes)
    assert (caught.value.status, caught.value.code) == (400, "BadParameter")
    assert caught.value.message.startswith(message) or message in caught.value.message


def test_hsm_says_it_without_the_number() -> None:
    with pytest.raises(Refusal) as caught:
        imported(MANAGED_HSM, policy=None)
    assert caught.value.message.startswith("Exportable keys must have release policy. (Activity ID: ")
    assert "AKV" not in caught.value.message


def test_hsm_limits_symmetric_keys() -> None:
    with pytest.raises(Refusal, match="k property of oct key is too large, maximum size is 64"):
        imported(MANAGED_HSM, key=jwk_of_secret(b"s" * 65))


def test_immutable_policy_may_be_sent_again() -> None:
    assert imported(existing=IMMUTABLE, policy=replace(POLICY, immutable=True)).policy == IMMUTABLE.policy


@pytest.mark.parametrize(
    ("dialect", "request_value", "kty", "bits"),
    [
        (VAULT, CreateRequest("RSA"), "RSA", 2048),
        (VAULT, CreateRequest("RSA-HSM", key_size=3072), "RSA-HSM", 3072),
        (VAULT, CreateRequest("EC", crv="P-521"), "EC", 521),
        (MANAGED_HSM, CreateRequest("RSA"), "RSA-HSM", 2048),
        (MANAGED_HSM, CreateRequest("EC"), "EC-HSM", 256),
        (MANAGED_HSM, CreateRequest("oct", key_size=192), "oct-HSM", 192),
    ],
)
def test_created(dialect: Dialect, request_value: CreateRequest, kty: str, bits: int) -> None:
    key = accept_create(dialect, "disk", request_value, None, 100)
    assert key.jwk.kty == kty
    size = len(key.jwk.secret["k"]) * 8 if "oct" in kty else key.jwk.public_key().key_size
    assert size == bits


@pytest.mark.parametrize(
    ("dialect", "request_value"),
    [
        (VAULT, CreateRequest("oct-HSM")),
        (VAULT, CreateRequest("RSA", key_size=1024)),
        (VAULT, CreateRequest("RSA", public_exponent=3)),
        (VAULT, CreateRequest("EC", crv="P-1")),
        (VAULT, CreateRequest("DSA")),
        (MANAGED_HSM, CreateRequest("oct", key_size=64)),
    ],
)
def test_create_refused(dialect: Dialect, request_value: CreateRequest) -> None:
    with pytest.raises(Refusal) as caught:
        accept_create(dialect, "disk", request_value, None, 100)
    assert caught.value.code == "BadParameter"


def test_update() -> None:
    key = imported()
    request = UpdateRequest(("sign",), Attributes(enabled=False, exp=9), {"t": "1"}, OTHER)
    changed = accept_update(VAULT, key, request, 200, versioned=False)
    assert changed.jwk.key_ops == ("sign",)
    assert (changed.attributes.enabled, changed.attributes.exp, changed.attributes.updated) == (False, 9, 200)
    assert changed.attributes.created == 100
    assert changed.tags == {"t": "1"}
    assert changed.policy is not None
    assert changed.policy.policy() == OTHER.policy()
    same = accept_update(VAULT, key, UpdateRequest(), 200, versioned=True)
    assert replace(same, attributes=key.attributes) == key


@pytest.mark.parametrize(
    ("request_value", "versioned", "number"),
    [
        (UpdateRequest(attributes=Attributes(exportable=False)), False, "AKV.SKR.1014"),
        (UpdateRequest(release_policy=OTHER), True, "AKV.SKR.1016"),
    ],
)
def test_update_refused(request_value: UpdateRequest, versioned: bool, number: str) -> None:
    with pytest.raises(Refusal, match=re.escape(number)):
        accept_update(VAULT, imported(), request_value, 200, versioned=versioned)
    with pytest.raises(Refusal, match=r"AKV\.SKR\.1020"):
        accept_update(VAULT, IMMUTABLE, UpdateRequest(release_policy=OTHER), 200, versioned=False)


@pytest.mark.parametrize("dialect", [VAULT, MANAGED_HSM])
def test_policies_are_kept_in_the_services_own_spelling(dialect: Dialect) -> None:
    sent = PolicyEnvelope(
        b'{"anyOf":[{"allOf":[{"equals":"1","claim":"x"}],"authority":"https://a"}],"version":"1.0"}'
    )
    kept = dialect.policy(sent)
    assert kept.data != sent.data
    assert kept.policy().authorities == sent.policy().authorities
    assert kept.policy().version == ("1.0.0" if dialect.is_hsm else "1.0")
