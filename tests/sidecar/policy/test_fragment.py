"""Signed fragments: made by us and read again, and every way in which the utility VM would refuse one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from fakes.policies import INFRA, container, fragment_text
from fakes.snp_cose import Issuer, Spec, authority, name, spoil

from sidecar.cbor import Value
from sidecar.cose import CONTENT_TYPE, X5CHAIN, PrivateKey, parse_sign1, sign_sign1
from sidecar.errors import EndorsementRejected, MalformedInput, SidecarError, UsageError
from sidecar.policy.fragment import Signer, load_signer, sign_fragment, verify_fragment
from sidecar.policy.fragment_text import (
    add_import,
    build_fragment_text,
    build_imports,
    import_of,
    parse_imports,
    svn_at_least,
)
from sidecar.policy.parse import parse_fragment_text
from sidecar.policy.parse_model import FragmentImport
from sidecar.policy.testchain import KEY_KINDS, SigningChain, make_test_chain

NOW = datetime(2026, 5, 1, tzinfo=UTC)
FEED = "registry.example/app"
TEXT = fragment_text(svn="7")
CHAINS = {kind: make_test_chain(now=NOW, kind=kind, name=f"Signer of {kind}") for kind in KEY_KINDS}
USUAL = {"p256": "ES256", "p384": "ES384", "p521": "ES512", "rsa": "PS384", "ed25519": "EdDSA"}


def signer(kind: str = "p384", algorithm: str | None = None) -> Signer:
    chain = CHAINS[kind]
    return load_signer(chain.key_pem, chain.chain_pem, algorithm=algorithm)


SIGNED = sign_fragment(TEXT, signer(), feed=FEED)
ACCEPT = FragmentImport(CHAINS["p384"].issuer, FEED, "7", ("containers",))


# -- good ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "algorithm"), [*USUAL.items(), ("rsa", "PS256"), ("rsa", "PS512")])
def test_every_kind_of_key(kind: str, algorithm: str) -> None:
    chosen = algorithm if algorithm != USUAL[kind] else None
    data = sign_fragment(TEXT, signer(kind, chosen), feed=FEED)
    fragment = verify_fragment(data, accept=[replace(ACCEPT, issuer=CHAINS[kind].issuer)])
    assert (fragment.algorithm, fragment.feed, fragment.text) == (algorithm, FEED, TEXT)
    assert fragment.issuer == CHAINS[kind].issuer
    assert fragment.content == parse_fragment_text(TEXT)
    assert fragment.issuer.endswith(f"::subject:CN:Signer%20of%20{kind}")


def test_the_envelope() -> None:
    message = parse_sign1(SIGNED)
    assert list(message.protected) == [1, 3, 33, "iss", "feed"]
    assert message.protected[1] == -35
    assert message.protected[3] == "application/unknown+rego"
    chain = message.protected[33]
    assert isinstance(chain, list)
    subjects = [x509.load_der_x509_certificate(der).subject.rfc4514_string() for der in chain]
    names = ["Signer of p384", "Test CA (for tests only)", "Test Root (for tests only)"]
    assert [subject.split(",")[0] for subject in subjects] == [f"CN={name}" for name in names]
    assert message.unprotected == {}
    assert message.payload == TEXT


def test_openssl_accepts_the_test_chain(tmp_path: Path) -> None:
    leaf, middle, root = x509.load_pem_x509_certificates(CHAINS["p384"].chain_pem)
    for file, certificate in (("leaf", leaf), ("middle", middle), ("root", root)):
        (tmp_path / file).write_bytes(certificate.public_bytes(Encoding.PEM))
    at = str(int((NOW + timedelta(days=1)).timestamp()))
    words = ["openssl", "verify", "-x509_strict", "-attime", at, "-CAfile", "root", "-untrusted", "middle"]
    done = subprocess.run([*words, "leaf"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "leaf: OK\n"), done.stderr


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("p384", PrivateFormat.TraditionalOpenSSL),
        ("rsa", PrivateFormat.TraditionalOpenSSL),
        ("rsa", PrivateFormat.PKCS8),
    ],
)
def test_forms_of_key_files(kind: str, form: PrivateFormat) -> None:
    key = load_pem_private_key(CHAINS[kind].key_pem, None)
    pem = key.private_bytes(Encoding.PEM, form, NoEncryption())
    assert load_signer(pem, CHAINS[kind].chain_pem).issuer == CHAINS[kind].issuer


def test_the_key_is_in_no_repr() -> None:
    assert "PRIVATE" not in repr(CHAINS["p384"])
    assert repr(signer()) == f"Signer({CHAINS['p384'].issuer!r})"


def test_an_expired_signer_is_still_believed() -> None:
    """The utility VM judges the chain at the leaf's last day: a fragment outlives its signer."""
    old = make_test_chain(now=datetime(2001, 1, 1, tzinfo=UTC), days=30)
    data = sign_fragment(TEXT, load_signer(old.key_pem, old.chain_pem), feed=FEED)
    assert verify_fragment(data).issuer == old.issuer


# -- envelopes of other signers -------------------------------------------------------------------


def envelope(
    *, issuer: Issuer | None = None, payload: bytes = TEXT, key: PrivateKey | None = None, **headers: Value
) -> bytes:
    """A fragment signed by hand; `headers` replace or, with ..., remove protected ones."""
    issuer = issuer or Issuer()
    protected: dict[int | str, Any] = {
        CONTENT_TYPE: "application/unknown+rego",
        X5CHAIN: [c.public_bytes(Encoding.DER) for c in issuer.chain()],
        "iss": issuer.did("subject:CN:Leaf", position=1),
        "feed": FEED,
    }
    labels: dict[str, int | str] = {"x5chain": X5CHAIN, "cwt": 15}
    protected |= {labels.get(name, name): value for name, value in headers.items()}
    kept = {label: value for label, value in protected.items() if value is not ...}
    return sign_sign1(kept, payload, key or issuer.leaf_key)


def ders(*positions: int) -> list[bytes]:
    chain = Issuer().chain()
    return [chain[position].public_bytes(Encoding.DER) for position in positions]


DID = Issuer().did("subject:CN:Leaf", position=1)


def test_cwt_claims_hide_the_texts() -> None:
    data = envelope(cwt={1: DID, 2: "other/feed", "svn": 7}, iss="x", feed="y")
    fragment = verify_fragment(data)
    assert (fragment.issuer, fragment.feed, fragment.header_svn) == (DID, "other/feed", "7")


@pytest.mark.parametrize("svn", [7, "7"])
def test_an_svn_in_the_header(svn: Value) -> None:
    assert verify_fragment(envelope(svn=svn)).header_svn == "7"


def test_a_chain_that_ends_below_its_root() -> None:
    """The last certificate is the root the policy's issuer hangs on, signed by itself or not."""
    assert verify_fragment(envelope(x5chain=ders(0, 1))).feed == FEED


@pytest.mark.parametrize("position", [1, 2])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_any_authority_of_the_chain_may_be_the_issuer(position: int, algorithm: str) -> None:
    did = Issuer().did("subject:CN:Leaf", position=position, algorithm=algorithm)
    assert verify_fragment(envelope(iss=did)).issuer == did


def refused_chain(change: Callable[[Spec], Spec], place: str = "leaf") -> bytes:
    issuer = Issuer(**{f"spoil_{place}": change})
    return envelope(issuer=issuer)


NO_CA = spoil(extensions=(authority(0, ca=False),))
OTHER = ec.generate_private_key(ec.SECP384R1())
REFUSED: list[tuple[str, Callable[[], bytes], str]] = [
    ("wrong key", lambda: envelope(key=OTHER), "COSE signature: wrong"),
    ("chain backwards", lambda: envelope(x5chain=ders(2, 1, 0)), "issuer chain"),
    ("chain mixed", lambda: envelope(x5chain=ders(0, 2, 1)), "is not issued by the next certificate"),
    ("leaf alone", lambda: envelope(x5chain=ders(0)), "1 certificates, wanted 2"),
    ("leaf as bytes", lambda: envelope(x5chain=ders(0)[0]), "1 certificates, wanted 2"),
    ("no chain", lambda: envelope(x5chain=...), "no x5chain"),
    ("no issuer", lambda: envelope(iss=...), "names no issuer"),
    ("empty issuer", lambda: envelope(iss=""), "names no issuer"),
    ("no feed", lambda: envelope(feed=...), "names no feed"),
    ("feed of another type", lambda: envelope(feed=b"x"), "names no feed"),
    ("claims without issuer", lambda: envelope(cwt={2: FEED}), "names no issuer"),
    ("claims of another type", lambda: envelope(cwt=[1]), "CWT claims are not a map"),
    ("issuer is no did", lambda: envelope(iss="contoso"), "not a did:x509"),
    ("issuer of another CA", lambda: envelope(iss=CHAINS["p384"].issuer), "named by the issuer is not in"),
    ("issuer is the leaf", lambda: envelope(iss=Issuer().did("subject:CN:Leaf", position=0)), "is not in it"),
    ("issuer of another name", lambda: envelope(iss=Issuer().did("subject:CN:Other")), "does not satisfy"),
    ("svn of the header", lambda: envelope(svn=8), "svn 8 in the header, 7 in the text"),
    ("svn of another type", lambda: envelope(svn=True), "neither a number nor text"),
    ("not a fragment", lambda: envelope(payload=b"package policy\n"), "namespace 'policy' is reserved"),
    ("line before", lambda: envelope(payload=b"\n" + TEXT), "first line is not the package line"),
    ("middle is no CA", lambda: refused_chain(NO_CA, "middle"), "not a CA"),
    ("issued by another", lambda: refused_chain(spoil(signer=OTHER)), "is not issued by the next"),
    ("names out of step", lambda: refused_chain(spoil(issuer=name("Else"))), "is not issued by the next"),
    (
        "authority over before the leaf",
        lambda: refused_chain(spoil(last=datetime(2023, 6, 1, tzinfo=UTC)), "middle"),
        "is valid 2023-01-01 to 2023-06-01",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_is_refused(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises((EndorsementRejected, MalformedInput), match=message):
        verify_fragment(make())


@pytest.mark.parametrize("place", range(0, len(SIGNED), 7))
def test_one_changed_byte(place: int) -> None:
    data = bytearray(SIGNED)
    data[place] ^= 0x20
    with pytest.raises(SidecarError):
        verify_fragment(bytes(data), accept=[ACCEPT])


# -- what a policy accepts ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "message"),
    [
        ([], "wanted none: there are no imports"),
        ([replace(ACCEPT, issuer="did:x509:0:sha256:x")], "issuer did:x509.*, wanted did:x509:0:sha256:x"),
        ([replace(ACCEPT, feed=f"{FEED}:1")], "feed 'registry.example/app', wanted 'registry.example/app:1'"),
        ([replace(ACCEPT, minimum_svn="8")], "svn 7, wanted at least 8"),
        ([replace(ACCEPT, minimum_svn="0.0.1")], "svn 7, wanted at least 0.0.1"),
    ],
)
def test_imports_that_do_not_fit(accept: list[FragmentImport], message: str) -> None:
    with pytest.raises(EndorsementRejected, match=message):
        verify_fragment(SIGNED, accept=accept)


def test_one_import_that_fits_is_enough() -> None:
    verify_fragment(SIGNED, accept=[replace(ACCEPT, minimum_svn="100"), ACCEPT])


@pytest.mark.parametrize(
    ("svn", "minimum", "enough"),
    [
        ("10", "9", True),
        ("9", "10", False),
        ("0", "0", True),
        ("1.10.0", "1.9.9", True),
        ("1.9.9", "1.10.0", False),
        ("2", "1.0.0", False),
        ("1.0.0", "1", False),
    ],
)
def test_svns_compare_as_numbers(svn: str, minimum: str, enough: bool) -> None:
    assert svn_at_least(svn, minimum) is enough


# -- making ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [False, True])
def test_the_text(compact: bool) -> None:
    text = build_fragment_text("contoso", "7", [container()], imports=[INFRA], compact=compact)
    if not compact:
        assert text == fragment_text(svn="7", fragments=[INFRA])
    assert text.startswith(b'package contoso\n\nsvn := "7"\nframework_version := "0.2.3"\n\nfragments := [\n')
    assert text.endswith(b"]\n")
    read = parse_fragment_text(text)
    assert [c.to_json() for c in read.containers] == [container()]
    assert [f.to_json() for f in read.fragments] == [INFRA]


@pytest.mark.parametrize("namespace", ["", "1a", "a.b", "a b", "policy", "framework", "data", "import", "é"])
def test_namespaces_that_are_refused(namespace: str) -> None:
    with pytest.raises(UsageError, match="namespace"):
        build_fragment_text(namespace, "1", [])


@pytest.mark.parametrize("svn", ["", "-1", "1.0", "x", "²"])
def test_svns_that_are_refused(svn: str) -> None:
    with pytest.raises(UsageError, match="svn"):
        build_fragment_text("contoso", svn, [])


def test_signing_needs_a_feed_and_a_fragment() -> None:
    with pytest.raises(UsageError, match="no feed"):
        sign_fragment(TEXT, signer(), feed="")
    with pytest.raises(MalformedInput):
        sign_fragment(b"package policy\n", signer(), feed=FEED)


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def backwards(chain: SigningChain) -> bytes:
    certificates = x509.load_pem_x509_certificates(chain.chain_pem)
    return b"".join(c.public_bytes(Encoding.PEM) for c in (certificates[0], *certificates[:0:-1]))


GOOD = CHAINS["p384"]
SIGNERS: list[tuple[bytes, bytes, str | None, str]] = [
    (b"", GOOD.chain_pem, None, "not an unencrypted PEM private key"),
    (GOOD.key_pem, b"", None, "certificate chain: does not parse"),
    (CHAINS["p256"].key_pem, GOOD.chain_pem, None, "not the key of the chain's first certificate"),
    (GOOD.key_pem, backwards(GOOD), None, "is not issued by the next certificate"),
    (GOOD.key_pem, GOOD.chain_pem, "ES256", "algorithm -7 with a key on secp384r1, wanted .'ES384'."),
    (GOOD.key_pem, GOOD.chain_pem.split(b"-----BEGIN")[1].join([b"-----BEGIN", b""]), None, "1 certificates"),
    (
        key_pem(rsa.generate_private_key(65537, 1024)),
        GOOD.chain_pem,
        None,
        "RSA of 1024 bits, wanted 2048 at least",
    ),
    (
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
        ),
        GOOD.chain_pem,
        None,
        "not an unencrypted PEM private key",
    ),
    (key_pem(ed25519.Ed25519PrivateKey.generate()), GOOD.chain_pem, None, "not the key of the chain's first"),
]


@pytest.mark.parametrize(("key", "chain", "algorithm", "message"), SIGNERS)
def test_signers_that_are_refused(key: bytes, chain: bytes, algorithm: str | None, message: str) -> None:
    with pytest.raises(SidecarError, match=message):
        load_signer(key, chain, algorithm=algorithm)


@pytest.mark.parametrize(("name", "days"), [("", 1), ("x" * 65, 1), ("a\n", 1), ("a", 0), ("a", 40000)])
def test_chains_that_are_refused(name: str, days: int) -> None:
    with pytest.raises(UsageError):
        make_test_chain(now=NOW, name=name, days=days)


@pytest.mark.parametrize("name", ["a b", "a:b", "Ä+&=@$,~'()*", "%41", "::subject:CN:x"])
def test_any_name_survives_the_issuer(name: str) -> None:
    chain = make_test_chain(now=NOW, name=name, kind="p256")
    data = sign_fragment(TEXT, load_signer(chain.key_pem, chain.chain_pem), feed=FEED)
    assert verify_fragment(data).issuer == chain.issuer


# -- imports --------------------------------------------------------------------------------------


def test_an_import_statement() -> None:
    content = parse_fragment_text(TEXT)
    assert import_of(content, issuer="i", feed="f") == FragmentImport(
        "i", "f", "7", ("containers", "fragments")
    )
    assert import_of(content, issuer="i", feed="f", minimum_svn="3").minimum_svn == "3"
    with pytest.raises(UsageError, match="it would be refused itself"):
        import_of(content, issuer="i", feed="f", minimum_svn="8")
    with pytest.raises(UsageError, match="wanted digits"):
        import_of(content, issuer="i", feed="f", minimum_svn="-1")


def test_a_file_of_imports() -> None:
    one, two = ACCEPT, replace(ACCEPT, feed="other")
    data = build_imports([one])
    assert data.endswith(b"}\n")
    assert parse_imports(data) == (one,)
    assert parse_imports(data.replace(b'"feed"', b'"path": "/x", "feed"')) == (one,)
    newer = replace(one, minimum_svn="9")
    assert add_import((one, two), newer) == (newer, two)
    assert add_import((one,), two) == (one, two)
    assert add_import((), one) == (one,)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "wanted an object"),
        (b"{}", "no imports"),
        (b'{"imports": []}', "member 'imports'"),
        (b'{"fragments": {}}', "wanted an array"),
        (b'{"fragments": [{"feed": "f"}]}', r"fragments\[0\]: member 'includes' is missing"),
    ],
)
def test_files_of_imports_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_imports(data)
