"""Our tokens: what they say about keys, and the MAC over the header."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.luks2_images import key, small_header

from encfs.errors import HeaderNotAuthentic, MalformedMetadata, NoFreeKeyslot
from encfs.keys import Secret
from encfs.luks2.metadata import Token
from encfs.luks2.token import (
    KeyToken,
    authenticate,
    check_header_mac,
    describe_keys,
    free_token_number,
    header_generation,
    header_mac,
    key_tokens,
    keyslots_of_key,
)

FULL = KeyToken("https://vault.example/keys/k", "12", b"\x01\x02", "a label", "0123456789abcdef")
MADE = small_header()
VOLUME_KEY = Secret(bytes(range(64)))


@pytest.mark.parametrize("token", [FULL, KeyToken(), KeyToken(kid="only a kid")])
def test_key_token_survives_the_header(token: KeyToken) -> None:
    metadata = replace(MADE.metadata, tokens={3: token.token((0,))})
    assert key_tokens(metadata) == {3: ((0,), token)}


def test_keys_are_found_by_fingerprint_and_described() -> None:
    other = KeyToken(kid="other", key_check_value="f" * 16)
    tokens = {0: FULL.token((0, 4)), 1: other.token((2,)), 2: KeyToken().token((9,))}
    metadata = replace(MADE.metadata, tokens=tokens)
    assert keyslots_of_key(metadata, "0123456789abcdef") == [0, 4]
    assert keyslots_of_key(metadata, "0" * 16) == []
    assert keyslots_of_key(metadata, None) == []
    assert describe_keys(metadata) == (
        "0123456789abcdef, https://vault.example/keys/k or ffffffffffffffff, other"
    )


def test_mac_vector() -> None:
    """A change of this value would make every authenticated image unreadable."""
    made = small_header(uuid="12345678-1234-4234-8234-123456789abc", tokens=[])
    assert header_mac(made.binary, made.metadata, VOLUME_KEY) == (
        "966d75125cb787ef5314b62cfcb956abd121b26614cbf4001f972ed9ba1e0d20"
    )


def test_mac_depends_on_the_volume_key() -> None:
    assert header_mac(MADE.binary, MADE.metadata, VOLUME_KEY) != header_mac(
        MADE.binary, MADE.metadata, Secret(bytes(range(1, 65)))
    )


def test_generation_counts_and_is_covered() -> None:
    signed = authenticate(MADE.binary, MADE.metadata, VOLUME_KEY)
    assert (header_generation(MADE.metadata), header_generation(signed)) == (1, 2)
    assert check_header_mac(MADE.binary, signed, VOLUME_KEY, required=True)
    number = next(n for n, t in signed.tokens.items() if t.type == "attested-volumes-header")
    token = signed.tokens[number]
    older = replace(token, fields={**token.fields, "generation": 1})
    back = replace(signed, tokens={**signed.tokens, number: older})
    with pytest.raises(HeaderNotAuthentic):
        check_header_mac(MADE.binary, back, VOLUME_KEY, required=False)


def test_sequence_id_and_salt_are_not_covered() -> None:
    """cryptsetup changes both without changing what the header says."""
    signed = authenticate(MADE.binary, MADE.metadata, VOLUME_KEY)
    touched = replace(MADE.binary, seqid=9, salt=bytes(64))
    assert check_header_mac(touched, signed, VOLUME_KEY, required=True)


@pytest.mark.parametrize("field", ["label", "subsystem", "uuid"])
def test_texts_of_the_binary_header_are_covered(field: str) -> None:
    signed = authenticate(MADE.binary, MADE.metadata, VOLUME_KEY)
    with pytest.raises(HeaderNotAuthentic):
        check_header_mac(replace(MADE.binary, **{field: "changed"}), signed, VOLUME_KEY, required=False)


def test_header_of_another_volume_is_not_authentic() -> None:
    with pytest.raises(HeaderNotAuthentic):
        check_header_mac(MADE.binary, MADE.metadata, VOLUME_KEY, required=False)


def test_no_room_for_a_token() -> None:
    full = {n: Token("x", (), {}) for n in range(32)}
    with pytest.raises(NoFreeKeyslot):
        free_token_number(full)


@pytest.mark.parametrize("change", [{"kid": "a\nb"}, {"key_check_value": "UPPER"}, {"label": "x" * 1025}])
def test_a_token_we_could_not_read_is_not_written(change: dict[str, str]) -> None:
    with pytest.raises(MalformedMetadata):
        replace(FULL, **change).token((0,))  # type: ignore[arg-type]


def test_the_token_of_a_new_image_names_its_key() -> None:
    assert describe_keys(MADE.metadata) == "dd5f5641f11ed078"
    assert keyslots_of_key(MADE.metadata, "dd5f5641f11ed078") == [0]
    assert len(key()) == 32
