"""did:x509: the text, the chain, the predicates."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from fakes.snp_cose import EKU, SIGNED_AT, Issuer, Spec, authority, key, name, rsa_key, spoil, usage

from sidecar.didx509 import parse_did, resolve
from sidecar.errors import EndorsementRejected, MalformedInput

OLD = datetime(2023, 1, 15, tzinfo=UTC)


def check(issuer: Issuer, predicates: str = f"eku:{EKU}", *, position: int = 2) -> object:
    did = parse_did(issuer.did(predicates, position=position))
    return resolve(did, issuer.chain(), at=SIGNED_AT)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("position", [1, 2], ids=["intermediate", "root"])
def test_either_authority_by_either_digest(algorithm: str, position: int) -> None:
    issuer = Issuer()
    did = parse_did(issuer.did(position=position, algorithm=algorithm))
    assert resolve(did, issuer.chain(), at=SIGNED_AT) == key("leaf").public_key()


def test_rsa_leaf() -> None:
    assert check(Issuer(leaf_key=rsa_key(2048))) == rsa_key(2048).public_key()


@pytest.mark.parametrize(
    "predicates",
    [
        "subject:C:US:O:Example%20Organisation",
        "subject:CN:Leaf",
        "subject:2.5.4.3:Leaf",
        "san:email:bob%40example.com",
        "san:dns:example.com",
        "san:uri:https%3A%2F%2Fexample.com%2Fa",
        f"eku:{EKU}::subject:CN:Leaf",
    ],
)
def test_predicates_that_hold(predicates: str) -> None:
    check(Issuer(), predicates)


@pytest.mark.parametrize(
    "predicates",
    [
        "eku:1.2.3",
        f"eku:{EKU}0",
        "subject:CN:Leafs",
        "subject:CN:leaf",
        "subject:L:Leaf",
        "subject:XX:Leaf",
        "san:email:alice%40example.com",
        "san:dns:bob%40example.com",
        "san:dn:x",
        f"eku:{EKU}::subject:CN:Other",
        f"subject:CN:Other::eku:{EKU}",
    ],
)
def test_predicates_that_do_not_hold(predicates: str) -> None:
    with pytest.raises(EndorsementRejected, match="does not satisfy"):
        check(Issuer(), predicates)


def test_missing_extensions_satisfy_nothing() -> None:
    bare = Issuer(spoil_leaf=spoil(extensions=()))
    for predicates in (f"eku:{EKU}", "san:dns:example.com"):
        with pytest.raises(EndorsementRejected, match="does not satisfy"):
            check(bare, predicates)
    check(bare, "subject:CN:Leaf")


def test_the_leaf_is_no_authority() -> None:
    with pytest.raises(EndorsementRejected, match="named by the issuer is not in it"):
        check(Issuer(), position=0)


F = "I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "did:web:example.com",
        f"did:x509:1:sha256:{F}::eku:1.2",
        f"did:x509:0:sha1:{F}::eku:1.2",
        f"did:x509:0:sha256:{F}",
        f"did:x509:0:sha256:{F}::",
        f"did:x509:0:sha256:{F}::eku",
        f"did:x509:0:sha256:{F}::eku:",
        f"did:x509:0:sha256:{F}::eku:1.2:3",
        f"did:x509:0:sha256:{F}::eku:1 2",
        f"did:x509:0:sha256:{F}::eku:1.2::",
        f"did:x509:0:sha256:{F}::unknown:x",
        f"did:x509:0:sha256:{F}::fulcio-issuer:example.com",
        f"did:x509:0:sha256:{F}::san:dns",
        f"did:x509:0:sha256:{F}::subject:CN",
        f"did:x509:0:sha256:{F}::subject:CN:a:CN:b",
        f"did:x509:0:sha256:{F}::subject:CN:%2",
        f"did:x509:0:sha256:{F[:-1]}::eku:1.2",
        f"did:x509:0:sha256:{F[:-2]}::eku:1.2",
        f"did:x509:0:sha512:{F}::eku:1.2",
        f"did:x509:0:sha256:{F}=::eku:1.2",
        f"did:x509:0:sha256:{F}::eku:1.2/path",
        f"did:x509:0:sha256:{F}::eku:1.2" + ".1" * 1100,
    ],
)
def test_texts_that_are_refused(text: str) -> None:
    with pytest.raises(MalformedInput):
        parse_did(text)


ROGUE = key("rogue")
CRITICAL = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)


def add(extension: tuple[x509.ExtensionType, bool]) -> Callable[[Spec], Spec]:
    return lambda spec: Spec(**{**spec.__dict__, "extensions": (*spec.extensions, extension)})


CHAINS: list[tuple[str, Callable[[Spec], Spec], str]] = [
    ("spoil_leaf", spoil(signer=ROGUE), "'CN=Leaf.*is not issued by the next"),
    ("spoil_leaf", spoil(issuer=name("Root")), "'CN=Leaf.*is not issued by the next"),
    ("spoil_leaf", spoil(last=OLD), "'CN=Leaf.*is valid 2023-01-01 to 2023-01-15, wanted 2023-02-08"),
    ("spoil_leaf", spoil(digest=hashes.SHA224()), "weak or unknown digest"),
    ("spoil_leaf", spoil(extensions=(usage(certify=True),)), "does not satisfy|may not sign"),
    ("spoil_leaf", add(CRITICAL), "critical extension 1.2.3.4"),
    ("spoil_middle", spoil(signer=ROGUE), "'CN=Middle.*is not issued by the next"),
    ("spoil_middle", spoil(last=OLD), "'CN=Middle.*is valid"),
    (
        "spoil_middle",
        spoil(extensions=(authority(0, ca=False), usage(certify=True))),
        "'CN=Middle.*is not a CA",
    ),
    ("spoil_middle", spoil(extensions=()), "'CN=Middle.*is not a CA"),
    ("spoil_middle", spoil(extensions=(authority(0), usage(sign=True))), "'CN=Middle.*is not a CA"),
    ("spoil_middle", add(CRITICAL), "critical extension"),
    ("spoil_root", spoil(signer=ROGUE), "'CN=Root.*is not issued by the next"),
    ("spoil_root", spoil(extensions=(authority(0), usage(certify=True))), "allows no path of this length"),
    ("spoil_root", spoil(last=OLD), "'CN=Root.*is valid"),
]


@pytest.mark.parametrize(("place", "change", "message"), CHAINS)
def test_one_mistake_in_the_chain(place: str, change: Callable[[Spec], Spec], message: str) -> None:
    with pytest.raises(EndorsementRejected, match=message):
        check(Issuer(**{place: change}))


def test_a_leaf_that_may_not_sign() -> None:
    eku = (x509.ExtendedKeyUsage([x509.ObjectIdentifier(EKU)]), False)
    issuer = Issuer(spoil_leaf=spoil(extensions=(usage(certify=True), eku)))
    with pytest.raises(EndorsementRejected, match="may not sign"):
        check(issuer)


def test_a_leaf_with_another_kind_of_key() -> None:
    issuer = Issuer(spoil_leaf=spoil(key=ed25519.Ed25519PrivateKey.generate()))
    with pytest.raises(EndorsementRejected, match="neither RSA nor EC"):
        check(issuer)


@pytest.mark.parametrize("count", [0, 1, 11])
def test_chains_of_absurd_length(count: int) -> None:
    issuer = Issuer()
    with pytest.raises(EndorsementRejected, match=f"{count} certificates, wanted 2 to 10"):
        resolve(parse_did(issuer.did()), (issuer.chain() * 4)[:count], at=SIGNED_AT)


def test_a_chain_in_another_order() -> None:
    issuer = Issuer()
    with pytest.raises(EndorsementRejected):
        resolve(parse_did(issuer.did()), issuer.chain()[::-1], at=SIGNED_AT)


def test_a_chain_that_ends_too_early() -> None:
    """The last certificate must be its own issuer: an anchor, not a link."""
    issuer = Issuer()
    with pytest.raises(EndorsementRejected, match=r"'CN=Middle.*is not issued by the next"):
        resolve(parse_did(issuer.did(position=1)), issuer.chain()[:2], at=SIGNED_AT)
