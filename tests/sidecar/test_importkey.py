"""Keys to import: the predecessor's configuration, every kind of key, and what a policy fails to demand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fakes.localcloud import Client

from encfs.keys import Secret, passphrase_from_jwk
from encfs.keys import key_check_value as encfs_check_value
from sidecar.akv import parse_key_ref
from sidecar.client import ReleaseSettings, release
from sidecar.errors import MalformedInput, UsageError
from sidecar.importkey import (
    HOST_DATA,
    import_key,
    import_request,
    key_check_value,
    make_material,
    parse_import_config,
    parse_symmetric,
)
from sidecar.jwk import jwk_of_private
from sidecar.releasepolicy import build_policy, parse_policy
from sidecar.services import open_services
from sidecar.weakpolicy import weaknesses

NO_POLICY = "00" * 32
GOOD = [
    (HOST_DATA, "ab" * 32),
    ("x-ms-sevsnpvm-is-debuggable", "false"),
    ("x-ms-compliance-status", "azure-compliant-uvm"),
    ("x-ms-sevsnpvm-vmpl", "0"),
]


def config(**changes: Any) -> Any:
    key = {
        "kid": "data",
        "authority": {"endpoint": "a.attest.azure.net"},
        "akv": {"endpoint": "h.managedhsm.azure.net"},
    } | changes.pop("key", {})
    claims = [[{"claim": HOST_DATA, "equals": NO_POLICY}]]
    return parse_import_config(json.dumps({"key": key, "claims": claims} | changes).encode())


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def test_the_request_is_the_predecessors() -> None:
    first = [{"claim": "a", "equals": "1"}, {"claim": "b", "equals": True}]
    found = config(claims=[first, [{"claim": "c", "equals": 2}]])
    made = make_material(found, symmetric=bytes(32), pem=None)
    request = json.loads(import_request(found, made).to_bytes())
    assert (request["key"]["kty"], request["hsm"]) == ("oct-HSM", True)
    assert request["attributes"] == {"exportable": True}
    assert found.policy().to_dict() == {
        "version": "1.0.0",
        "anyOf": [
            {"authority": "https://a.attest.azure.net", "allOf": first},
            {"authority": "https://a.attest.azure.net", "allOf": [{"claim": "c", "equals": 2}]},
        ],
    }
    assert "immutable" not in request["release_policy"] or request["release_policy"]["immutable"] is False


@pytest.mark.parametrize(
    "changes",
    [
        {"key": {"kty": "AES"}},
        {"key": {"kid": "../x"}},
        {"key": {"akv": {}}},
        {"key": {"authority": None}},
        {"key": {"key_ops": [1]}},
        {"key_derivation": {"salt": "xyz"}},
        {"claims": [[{"claim": "a", "equals": None}]]},
        {"claims": [[{"claim": "a", "equal": "1"}]]},
        {"claims": [{"claim": "a", "equals": "1"}]},
    ],
)
def test_a_wrong_configuration(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        config(**changes)


def test_given_keys_keep_their_operations(rsa_key: rsa.RSAPrivateKey) -> None:
    found = config(key={"kty": "RSA-HSM", "key_ops": ["decrypt"]}, key_derivation={"salt": "00" * 16})
    made = make_material(found, symmetric=None, pem=pem(rsa_key))
    assert made.key.key_ops == ("decrypt",)
    assert made.key.kty == "RSA-HSM"
    assert not made.generated


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_ec_keys(curve: ec.EllipticCurve) -> None:
    private = ec.generate_private_key(curve)
    made = make_material(config(key={"kty": "EC-HSM"}), symmetric=None, pem=pem(private))
    assert (made.key.kty, made.passphrase, made.check_value) == ("EC-HSM", None, None)
    assert made.key.private_key().private_numbers() == private.private_numbers()  # type: ignore[union-attr]
    assert make_material(config(key={"kty": "EC-HSM"}), symmetric=None, pem=None).generated


def test_keys_of_another_kind_are_refused(rsa_key: rsa.RSAPrivateKey) -> None:
    for kty, symmetric, given in (
        ("oct-HSM", None, pem(rsa_key)),
        ("RSA-HSM", bytes(32), None),
        ("EC-HSM", None, pem(rsa_key)),
        ("RSA-HSM", None, pem(ec.generate_private_key(ec.SECP256R1()))),
        ("RSA-HSM", None, b"no PEM"),
        ("RSA-HSM", None, b""),
    ):
        with pytest.raises(UsageError):
            make_material(config(key={"kty": kty}), symmetric=symmetric, pem=given)


@pytest.mark.parametrize(
    ("data", "good"),
    [
        (bytes(range(32)), True),
        (bytes(range(32)).hex().encode(), True),
        (bytes(range(32)).hex().upper().encode() + b"\n", True),
        (b"00" * 31, False),
        (b"x" * 64, False),
        (b"", False),
        (bytes(33), False),
    ],
)
def test_symmetric_keys_as_bytes_or_digits(data: bytes, good: bool) -> None:
    if good:
        assert parse_symmetric(data) == bytes(range(32))
    else:
        with pytest.raises(UsageError) as caught:
            parse_symmetric(data)
        assert data.decode("latin-1") not in str(caught.value) or not data


def test_import_and_mount_agree_on_the_passphrase(rsa_key: rsa.RSAPrivateKey) -> None:
    """With a salt and without: the predecessor's two halves differed, and nobody could mount."""
    for derivation in ({"salt": "0011" * 8, "label": "disk"}, {}):
        found = config(key={"kty": "RSA-HSM"}, key_derivation=derivation)
        made = make_material(found, symmetric=None, pem=pem(rsa_key))
        released = jwk_of_private(rsa_key).to_dict(private=True)
        mounted = passphrase_from_jwk(released, made.salt, found.label)
        assert made.salt, "a salt is made where none is given"
        assert made.check_value == encfs_check_value(mounted)
    assert key_check_value(bytes(32)) == encfs_check_value(Secret(bytes(32), full_entropy=True))


def test_a_policy_digest_is_demanded_in_every_clause() -> None:
    claims = [
        [{"claim": HOST_DATA, "equals": "00"}, {"claim": "a", "equals": "1"}],
        [{"claim": "b", "equals": "2"}],
    ]
    found = config(claims=claims).with_host_data(bytes.fromhex("ab" * 32))
    assert found.clauses == (
        ((HOST_DATA, "ab" * 32), ("a", "1")),
        ((HOST_DATA, "ab" * 32), ("b", "2")),
    )
    assert config(claims=[]).with_host_data(bytes(32)).clauses == (((HOST_DATA, "00" * 32),),)


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        (HOST_DATA, "any container group"),
        ("x-ms-sevsnpvm-is-debuggable", "its host can read"),
        ("x-ms-compliance-status", "any utility VM"),
        ("x-ms-sevsnpvm-vmpl", "any privilege level"),
    ],
)
def test_the_lint_names_what_is_missing(left_out: str, words: str) -> None:
    assert weaknesses(build_policy(["https://a"], [GOOD])) == ()
    (found,) = weaknesses(build_policy(["https://a"], [[c for c in GOOD if c[0] != left_out]]))
    assert words in found


def test_the_lint_sees_through_choices() -> None:
    debuggable = [c if c[0] != "x-ms-sevsnpvm-is-debuggable" else (c[0], "true") for c in GOOD]
    assert len(weaknesses(build_policy(["https://a"], [debuggable]))) == 1
    assert len(weaknesses(build_policy(["https://a"], [GOOD, GOOD[1:]]))) == 1, "one weak clause is enough"
    members = [{"claim": c, "equals": v} for c, v in GOOD]
    either = {"version": "1.0.0", "anyOf": [{"authority": "https://a", "anyOf": members}]}
    assert len(weaknesses(parse_policy(either))) == 4, "of a choice none is certain"


@pytest.mark.parametrize("kty", ["oct-HSM", "RSA-HSM", "EC-HSM"])
async def test_imported_and_released(here: Client, kty: str) -> None:
    """Each kind comes back as a private JWK with its operations and without a key id."""
    environ = here.cloud.environment
    where = {
        "authority": {"endpoint": environ["MAA_ENDPOINT"]},
        "akv": {"endpoint": environ["MHSM_ENDPOINT"]},
    }
    found = config(key=where | {"kty": kty, "kid": "made"})
    made = make_material(found, symmetric=None, pem=None)
    async with open_services(environ) as services:
        bundle = await import_key(services.vault(found.akv_endpoint), found, made)
    assert bundle.attributes.exportable is True
    released = await release(ReleaseSettings(found.maa_endpoint, found.akv_endpoint, "made"), environ)
    jwk = released.jwk()
    assert jwk["kty"] == kty.removesuffix("-HSM")
    assert tuple(jwk["key_ops"]) == found.key_ops  # type: ignore[arg-type]
    assert "kid" not in jwk
    private = made.key.to_dict(private=True)
    for name in {"k", "d", "n", "x", "y"} & private.keys():
        assert jwk[name] == private[name]
    assert parse_key_ref("made").is_met_by(released.ref)
