"""Keys as values: secret bytes, key files, and a released JWK turned into a passphrase.

Words: the *passphrase* is what a keyslot's KDF is fed with (here mostly 32 random bytes); the *volume
key* is what the keyslot yields. Both travel as `Secret`. Python cannot promise that memory is wiped;
`Secret` only makes sure that a key is never printed, logged, pickled or compared in variable time by
accident.

The *key check value* is a short public fingerprint that `create`, `import-key`, `info`, `check` and
`mount` all show, so that two people can compare keys without showing them. It exists only for keys of
full entropy: of a typed passphrase it would let anyone test guesses without the cost of the KDF.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NoReturn

from encfs.errors import KeyFileError, KeyUnusable
from encfs.strictjson import JsonRefused, load_object

KEY_SIZE = 32  # bytes of a passphrase made from a key
MAX_KEY_FILE = 64 * 1024  # bytes; a JWK of RSA-4096 has about 4 KiB
DEFAULT_LABEL = "Symmetric Encryption Key"
KEY_CHECK_MESSAGE = b"attested-volumes key check value v1"
KEY_CHECK_SIZE = 8  # bytes, shown as 16 hex digits

KeyForm = Literal["32 raw bytes", "64 hex digits", "JWK (oct)", "JWK (RSA)"]


class Secret:
    """Key bytes that do not show themselves.

    Args:
        data: the bytes, secret.
        full_entropy: True when the bytes come from a random generator or from a KDF over such bytes;
            only then may a fingerprint of them be public.
    """

    __slots__ = ("_data", "full_entropy")
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, data: bytes | bytearray | memoryview, *, full_entropy: bool = False) -> None:
        self._data = bytes(data)
        self.full_entropy = full_entropy

    def reveal(self) -> bytes:
        """The bytes themselves, secret; call it only where they are fed to a cipher or KDF."""
        return self._data

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._data, other._data)

    def __repr__(self) -> str:
        return f"Secret(<{len(self._data)} bytes>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never pickled or copied")


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What was found in a key file: its form, by name, and the passphrase, secret."""

    form: KeyForm
    passphrase: Secret


def key_check_value(key: Secret) -> str:
    """Public fingerprint of a key of full entropy, 16 hex digits.

    HMAC-SHA-256 with the key as key over a fixed message, cut to 8 bytes: it tells nothing about the key
    and no other use of the key computes the same.

    Raises:
        KeyUnusable: the key is not known to be of full entropy; ask `key.full_entropy` first.
    """
    if not key.full_entropy:
        raise KeyUnusable(
            "no key check value: the key may be a typed passphrase, wanted a key of full entropy",
            hint="use a random key of 32 bytes to have a fingerprint",
        )
    mac = hmac.new(key.reveal(), KEY_CHECK_MESSAGE, hashlib.sha256).digest()
    return mac[:KEY_CHECK_SIZE].hex()


def offered_fingerprint(key: Secret) -> str | None:
    """The key check value where the key may have one, else None."""
    return key_check_value(key) if key.full_entropy else None


def parse_key_file(data: bytes, *, salt: bytes | None = None, label: str | None = None) -> Secret:
    """The passphrase in a key file; see `read_key_file`."""
    return read_key_file(data, salt=salt, label=label).passphrase


def read_key_file(data: bytes, *, salt: bytes | None = None, label: str | None = None) -> KeyFile:
    """Recognise the form of a key file and read its key.

    Args:
        data: content of the file, secret: 32 raw bytes, or 64 hex digits with or without a line end, or
            a JWK (oct, or RSA together with `salt`).
        salt: HKDF salt for an RSA key, public.
        label: HKDF label for an RSA key, public.

    Raises:
        KeyFileError: the content has none of the forms.
        KeyUnusable: it is a JWK that cannot serve as a passphrase.
    """
    if len(data) == KEY_SIZE:
        return KeyFile("32 raw bytes", _key_secret(data))
    text = data.strip(b" \t\r\n")
    if re.fullmatch(rb"[0-9A-Fa-f]{64}", text):
        return KeyFile("64 hex digits", _key_secret(bytes.fromhex(text.decode("ascii"))))
    if text.startswith(b"{"):
        return _jwk_key_file(data, salt, label)
    raise KeyFileError(
        f"key file: {len(data)} bytes of no known form, wanted 32 raw bytes, 64 hex digits or a JWK",
        hint=_form_hint(data, text),
    )


def passphrase_from_jwk(
    jwk: Mapping[str, object], salt: bytes | None = None, label: str | None = None
) -> Secret:
    """Turn a released key into the passphrase of a volume, 32 bytes, secret.

    Args:
        jwk: private JWK, secret. `oct` keys (32 bytes) are used as they are. `RSA` keys go through
            HKDF-SHA-256 over the private exponent, big endian without leading zeros.
        salt: HKDF salt, at least one byte; needed for RSA, without effect for oct (as in the predecessor).
        label: HKDF info, for RSA; `Symmetric Encryption Key` when absent.

    Raises:
        KeyUnusable: another key type or size, a member missing, or an RSA key without salt.

    Spec: RFC 7518, sections 6.3.2.1 and 6.4.1 (members `d` and `k`); RFC 5869 (HKDF).
    """
    kty = jwk.get("kty")
    if kty in ("oct", "oct-HSM"):
        return _oct_passphrase(jwk)
    if kty in ("RSA", "RSA-HSM"):
        return _rsa_passphrase(jwk, salt, label)
    shown = kty if isinstance(kty, str) and len(kty) <= 20 else type(kty).__name__
    raise KeyUnusable(
        f"key type {shown!r}, wanted oct or RSA",
        hint="an EC key cannot open a volume; import an oct key of 32 bytes or an RSA key",
    )


def _oct_passphrase(jwk: Mapping[str, object]) -> Secret:
    key = _base64url_member(jwk, "k")
    if len(key) != KEY_SIZE:
        raise KeyUnusable(
            f"oct key of {len(key)} bytes, wanted {KEY_SIZE}",
            hint="import an oct key of 256 bits (oct-HSM, 32 bytes)",
        )
    return _key_secret(key)


def _rsa_passphrase(jwk: Mapping[str, object], salt: bytes | None, label: str | None) -> Secret:
    if not salt:
        # Without a salt the importing tool may invent one and the mounting tool use none: two different
        # keys from one RSA key, and an image that will not open for no visible reason.
        raise KeyUnusable(
            "an RSA key without a derivation salt, wanted the salt used at encryption time",
            hint="give the salt (hex); without it, creation and mount can derive two different keys",
        )
    exponent = _base64url_member(jwk, "d").lstrip(b"\0")
    if len(exponent) < KEY_SIZE:
        raise KeyUnusable(
            f"RSA private exponent of {len(exponent)} bytes, wanted the whole private key",
            hint="the key must be released as private JWK, with member d",
        )
    # Imported here: a driver needs `Secret` only, and keeps all its memory locked.
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = (label or DEFAULT_LABEL).encode("utf-8")
    hkdf = HKDF(algorithm=hashes.SHA256(), length=KEY_SIZE, salt=salt, info=info)
    return Secret(hkdf.derive(exponent), full_entropy=True)


def _jwk_key_file(data: bytes, salt: bytes | None, label: str | None) -> KeyFile:
    try:
        jwk = load_object(data, max_bytes=MAX_KEY_FILE, max_depth=4)
    except JsonRefused as exc:
        raise KeyFileError(f"key file: {exc}", hint="the file looks like a JWK, but is not one") from exc
    inner = jwk.get("key")
    if "kty" not in jwk and isinstance(inner, dict):
        jwk = inner  # the vault wraps a released key as {"key": {...}}
    passphrase = passphrase_from_jwk(jwk, salt, label)
    return KeyFile("JWK (RSA)" if str(jwk["kty"]).startswith("RSA") else "JWK (oct)", passphrase)


def _key_secret(data: bytes) -> Secret:
    return Secret(data, full_entropy=_looks_random(data))


def _looks_random(key: bytes) -> bool:
    """False for 32 bytes of text or of a pattern, which a person may have chosen.

    32 random bytes are all printable with probability (95/256)**32, about 2e-14, and have fewer than 12
    distinct values with probability below 1e-15.
    """
    printable = all(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in key)
    return not printable and len(set(key)) >= 12


def _base64url_member(jwk: Mapping[str, object], name: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str) or not value:
        raise KeyUnusable(
            f"key without member {name!r}, wanted a private JWK",
            hint="the vault released only the public part; the key must be exportable with a release policy",
        )
    text = value.rstrip("=")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise KeyUnusable(f"key member {name!r} is not base64url, wanted RFC 4648 section 5")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as exc:
        raise KeyUnusable(f"key member {name!r} is not base64url, wanted RFC 4648 section 5") from exc


def _form_hint(data: bytes, text: bytes) -> str:
    if len(text) == KEY_SIZE or len(data) == KEY_SIZE + 1:
        return "the file has one byte too many after 32 bytes; was a line end added by an editor or by echo?"
    if re.fullmatch(rb"[A-Za-z0-9+/_-]{43}=?", text):
        return "it looks like base64; decode it first (base64 -d)"
    if re.fullmatch(rb"[0-9A-Fa-f]+", text):
        return f"it has {len(text)} hex digits; a key has 64"
    return "make one with: head -c 32 /dev/urandom > key"
