"""What looks like a secret goes; what people need to read stays."""

from __future__ import annotations

import base64
import json
import logging
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import UsageError
from sidecar.jose import b64u_encode
from sidecar.redact import MARK, RedactingFormatter, redact
from sidecar.running import complain

TOKEN = ".".join(b64u_encode(part) for part in (b'{"alg":"RS256","kid":"x"}', b'{"a":1}', bytes(range(200))))
KEY = b64u_encode(bytes(range(32)))
DIGEST = "ab" * 32


def pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"token {TOKEN} was refused", TOKEN),
        (f"token {TOKEN.rpartition('.')[0]}. cut", TOKEN.split(".")[1]),
        (f"Authorization: Bearer {TOKEN}", TOKEN),
        ("authorization: bearer abc.def-123", "abc.def-123"),
        ("Authorization: SharedKey acct:c2VjcmV0c2VjcmV0", "c2VjcmV0c2VjcmV0"),
        ("https://a.blob.core.windows.net/c/b?sv=1&sig=aB%2Bc%3D&se=2", "aB%2Bc%3D"),
        (json.dumps({"kty": "oct", "k": KEY}), KEY),
        (json.dumps({"key": json.dumps({"kty": "oct", "k": KEY})}), KEY),
        (repr({"kty": "oct", "k": KEY}), KEY),
        (repr({"d": KEY.encode()}), KEY),
        (json.dumps({"access_token": "opaque!", "x": 1}), "opaque!"),
        (json.dumps({"akv": {"bearer_token": "opaque value"}}), "opaque value"),
    ],
)
def test_secrets_go(text: str, secret: str) -> None:
    found = redact(text)
    assert secret not in found
    assert MARK in found


def test_private_key_blocks_go_also_when_cut() -> None:
    text = pem()
    middle = text.splitlines()[5]
    for shown in (text, text[: len(text) // 2], f"key:\n{text}after"):
        assert middle not in redact(shown)
    assert redact(f"{text}after").endswith("after")


@pytest.mark.parametrize(
    "text",
    [
        f"claim x-ms-sevsnpvm-hostdata is {DIGEST}, wanted {DIGEST}",
        "attestation token of https://a.attest.azure.net, expires 1700000000",
        "released https://v.vault.azure.net/keys/name/0123456789abcdef0123456789abcdef",
        json.dumps({"kid": "name", "kty": "oct", "key_ops": ["encrypt"], "n": "AQAB"}),
        "Bearer token missing",
        "certificates for TCB 0300000000000873 from THIM",
        "GET https://host/path?api-version=7.4&maxresults=25",
        "the bearer of bad news",
    ],
)
def test_what_people_need_stays(text: str) -> None:
    assert redact(text) == text


def test_known_values_go_wherever_they_are() -> None:
    hexadecimal = bytes(range(32)).hex()
    assert redact(f"key={hexadecimal}!", [hexadecimal]) == f"key={MARK}!"
    # A short value would damage words.
    assert redact("a word", ["a"]) == "a word"


def record(message: str, *args: object, exc: BaseException | None = None) -> logging.LogRecord:
    info = (type(exc), exc, exc.__traceback__) if exc else None
    return logging.LogRecord("x", logging.INFO, __file__, 1, message, args, info)


def test_arguments_and_tracebacks_are_redacted() -> None:
    formatter = RedactingFormatter("%(levelname)s: %(message)s", known=["opaque-secret-1"])
    assert TOKEN not in formatter.format(record("got %s", TOKEN))
    try:
        raise ValueError(f"bad token {TOKEN} and opaque-secret-1")
    except ValueError:
        text = formatter.format(record("failed", exc=sys.exc_info()[1]))
    assert "Traceback" in text
    assert TOKEN not in text
    assert "opaque-secret-1" not in text


def test_nothing_imitates_a_record() -> None:
    text = RedactingFormatter("INFO: %(message)s").format(record("a\nINFO: forged\r\x1b[31m\u2028x"))
    assert text.splitlines() == ["INFO: a", "    INFO: forged??[31m?x"]


@given(st.binary(min_size=16, max_size=64), st.sampled_from(["k", "d", "p", "q", "dp", "dq", "qi"]))
def test_no_private_member_survives(secret: bytes, name: str) -> None:
    for text in (b64u_encode(secret), base64.b64encode(secret).decode()):
        document = {"kty": "oct", name: text, "key_ops": ["encrypt"]}
        for shown in (json.dumps(document), repr(document), json.dumps(json.dumps(document))):
            assert text not in redact(shown)


def test_secrets_of_the_environment_are_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "as-plain-as-words")
    for error in (
        UsageError("tenant: as-plain-as-words is wrong", hint="use as-plain-as-words"),
        RuntimeError("as-plain-as-words"),
    ):
        complain(error)
        shown = capsys.readouterr().err
        assert MARK in shown
        assert "as-plain" not in shown
