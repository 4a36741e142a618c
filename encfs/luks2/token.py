"""Our two token types: which key opens a keyslot, and a MAC over the header.

Key token, one for each keyslot that was made with a known key; everything in it is public:

    {"type": "attested-volumes-key", "keyslots": ["0"], "format": 1, "kid": "https://...",
     "key_version": "...", "salt": "<hex>", "label": "...", "key_check_value": "<16 hex digits>"}

Header token, at most one:

    {"type": "attested-volumes-header", "keyslots": [], "format": 1, "generation": 3, "mac": "<64 hex>"}

The MAC is HMAC-SHA-256 under a sub-key of the volume key (HKDF-SHA-256, fixed info) over uuid, labels,
header size and all metadata besides the MAC itself. It proves that the header is one that a holder of the
volume key wrote for this volume: nobody else can move the segment, swap a keyslot or change a KDF unseen.
It does not cover the data, nor the keyslot areas (their digest does), and it cannot tell an old header of
the same volume from the current one; `generation` grows with every edit so that something outside may.

cryptsetup ignores both types. It also does not renew the MAC: after `luksAddKey` the header must be
authenticated again.

Kind: pure

Spec: LUKS2 1.1.4, section 3.6 (tokens); RFC 5869 (HKDF).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from encfs.errors import HeaderNotAuthentic, MalformedMetadata, NoFreeKeyslot
from encfs.keys import Secret
from encfs.luks2.fields import Fields
from encfs.luks2.header import BinaryHeader
from encfs.luks2.metadata import MAX_OBJECTS, Metadata, Token, metadata_json

KEY_TYPE = "attested-volumes-key"
HEADER_TYPE = "attested-volumes-header"
FORMAT = 1
MAC_INFO = b"attested-volumes header mac v1"
MAC_KEY_SIZE = 32  # bytes
MAX_TEXT = 1024  # characters of kid, version or label
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_HEX = re.compile(r"([0-9a-f]{2})*")


@dataclass(frozen=True, slots=True)
class KeyToken:
    """Where the passphrase of a keyslot comes from; empty strings for what is not known. All public.

    Attributes:
        kid: identifier of the key in its vault.
        key_version: version of the key.
        salt: HKDF salt, for an RSA key.
        label: HKDF label, for an RSA key.
        key_check_value: fingerprint of the passphrase, 16 hex digits.
    """

    kid: str = ""
    key_version: str = ""
    salt: bytes = b""
    label: str = ""
    key_check_value: str = ""

    def token(self, keyslots: tuple[int, ...]) -> Token:
        """The token that binds this to keyslots."""
        texts = {
            "kid": self.kid,
            "key_version": self.key_version,
            "salt": self.salt.hex(),
            "label": self.label,
        }
        fields: dict[str, object] = {"format": FORMAT}
        fields.update({name: text for name, text in texts.items() if text})
        if self.key_check_value:
            fields["key_check_value"] = self.key_check_value
        token = Token(KEY_TYPE, keyslots, fields)
        parse_key_token("key token", token)  # what we write, we can read
        return token


def parse_key_token(name: str, token: Token) -> KeyToken:
    """Read a token of our key type.

    Raises:
        MalformedMetadata, UnsupportedFeature: a field of another form, or one that we do not know.
    """
    fields = Fields(name, dict(token.fields))
    _check_format(fields)
    kid, version, label = (_text(fields, member) for member in ("kid", "key_version", "label"))
    salt, value = _text(fields, "salt"), _text(fields, "key_check_value")
    fields.done()
    if not _HEX.fullmatch(salt) or (value and not _FINGERPRINT.fullmatch(value)):
        raise MalformedMetadata(f"{name}: salt or key_check_value is not lower-case hex of the right size")
    return KeyToken(kid, version, bytes.fromhex(salt), label, value)


def key_tokens(metadata: Metadata) -> dict[int, tuple[tuple[int, ...], KeyToken]]:
    """Our key tokens by token number, each with the keyslots it speaks of."""
    return {
        n: (token.keyslots, parse_key_token(f"token {n}", token))
        for n, token in metadata.tokens.items()
        if token.type == KEY_TYPE
    }


def keyslots_of_key(metadata: Metadata, fingerprint: str | None) -> list[int]:
    """Keyslots that a key with this fingerprint should open."""
    if fingerprint is None:
        return []
    return [
        n
        for keyslots, token in key_tokens(metadata).values()
        if hmac.compare_digest(token.key_check_value, fingerprint)
        for n in keyslots
    ]


def describe_keys(metadata: Metadata) -> str:
    """The keys that the image names, for a message; empty when it names none."""
    found = []
    for _, token in key_tokens(metadata).values():
        parts = [part for part in (token.key_check_value, token.kid) if part]
        if parts:
            found.append(", ".join(parts))
    return " or ".join(found)


def header_mac(binary: BinaryHeader, metadata: Metadata, volume_key: Secret) -> str:
    """MAC over everything in the header but itself, 64 hex digits, public.

    Args:
        volume_key: secret.
    """
    covered = {
        "uuid": binary.uuid,
        "label": binary.label,
        "subsystem": binary.subsystem,
        "size": binary.size,
        "metadata": metadata_json(_without_mac(metadata)),
    }
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    hkdf = HKDF(algorithm=hashes.SHA256(), length=MAC_KEY_SIZE, salt=None, info=MAC_INFO)
    return hmac.new(hkdf.derive(volume_key.reveal()), text, hashlib.sha256).hexdigest()


def authenticate(binary: BinaryHeader, metadata: Metadata, volume_key: Secret, *, above: int = 0) -> Metadata:
    """The same metadata with a fresh header token, of the next generation that is over `above`.

    Raises:
        NoFreeKeyslot: no room for one more token.
    """
    number = _header_token_number(metadata)
    generation = 1
    if number is None:
        number = free_token_number(metadata.tokens)
    else:
        generation = _parse_header_token(number, metadata.tokens[number])[0] + 1
    fields: dict[str, object] = {"format": FORMAT, "generation": max(generation, above + 1)}
    unsigned = replace(metadata, tokens={**metadata.tokens, number: Token(HEADER_TYPE, (), fields)})
    signed = {**fields, "mac": header_mac(binary, unsigned, volume_key)}
    return replace(metadata, tokens={**metadata.tokens, number: Token(HEADER_TYPE, (), signed)})


def check_header_mac(binary: BinaryHeader, metadata: Metadata, volume_key: Secret, *, required: bool) -> bool:
    """Check the header's MAC.

    Returns:
        True when there is one and it is right, False when there is none and none is required.

    Raises:
        HeaderNotAuthentic: it is wrong, or missing and required.
        MalformedMetadata: several header tokens, or one of another form.
    """
    number = _header_token_number(metadata)
    if number is None:
        if required:
            raise HeaderNotAuthentic(
                "the header carries no MAC, wanted an authenticated header",
                hint="check the image with `encfs info`, then authenticate its header with your key",
            )
        return False
    seen = _parse_header_token(number, metadata.tokens[number])[1]
    if not hmac.compare_digest(seen, header_mac(binary, metadata, volume_key)):
        raise HeaderNotAuthentic(
            "the header's MAC does not match its metadata",
            hint="the header was changed without this tool. If you did it yourself (cryptsetup luksAddKey,"
            " config), authenticate the header again; if not, do not use the image",
        )
    return True


def header_generation(metadata: Metadata) -> int | None:
    """How often the header was authenticated; None without header token. Public, and true only after
    `check_header_mac`."""
    number = _header_token_number(metadata)
    return None if number is None else _parse_header_token(number, metadata.tokens[number])[0]


def check_tokens(metadata: Metadata) -> None:
    """Refuse tokens of our types that are not of our form.

    Raises:
        MalformedMetadata, UnsupportedFeature: there is one.
    """
    key_tokens(metadata)
    header_generation(metadata)


def free_token_number(tokens: Mapping[int, Token]) -> int:
    """The lowest unused token number.

    Raises:
        NoFreeKeyslot: all are in use.
    """
    for number in range(MAX_OBJECTS):
        if number not in tokens:
            return number
    raise NoFreeKeyslot(
        f"the header has {MAX_OBJECTS} tokens already", hint="remove one: cryptsetup token remove"
    )


def _without_mac(metadata: Metadata) -> Metadata:
    number = _header_token_number(metadata)
    if number is None:
        return metadata
    token = metadata.tokens[number]
    fields = {name: value for name, value in token.fields.items() if name != "mac"}
    return replace(metadata, tokens={**metadata.tokens, number: replace(token, fields=fields)})


def _header_token_number(metadata: Metadata) -> int | None:
    numbers = [n for n, token in metadata.tokens.items() if token.type == HEADER_TYPE]
    if len(numbers) > 1:
        raise MalformedMetadata(f"{len(numbers)} tokens of type {HEADER_TYPE}, wanted one")
    return numbers[0] if numbers else None


def _parse_header_token(number: int, token: Token) -> tuple[int, str]:
    fields = Fields(f"token {number}", dict(token.fields))
    _check_format(fields)
    generation, mac = fields.uint32("generation"), fields.string("mac")
    fields.done()
    if token.keyslots or not re.fullmatch(r"[0-9a-f]{64}", mac):
        raise MalformedMetadata(f"token {number}: wanted a MAC of 64 hex digits and no keyslots")
    return generation, mac


def _check_format(fields: Fields) -> None:
    if fields.uint32("format") != FORMAT:
        raise MalformedMetadata(f"{fields.name}: another format than {FORMAT}")


def _text(fields: Fields, member: str) -> str:
    if not fields.has(member):
        return ""
    text = fields.string(member)
    if len(text) > MAX_TEXT or not text.isprintable():
        raise fields.wrong(member, text, f"at most {MAX_TEXT} printable characters")
    return text
