"""Key derivation against published vectors, and the bound on what it may cost."""

from __future__ import annotations

import pytest
from fakes.luks2_images import seeded

from encfs.errors import KdfCostTooHigh, UsageError
from encfs.keys import Secret
from encfs.luks2.kdf import Argon2, Budget, Kdf, KdfLimits, Pbkdf2, derive, new_kdf

SALT = bytes(32)
RANDOM_KEY = Secret(bytes(range(32)), full_entropy=True)
TYPED = Secret(b"typed")


@pytest.mark.parametrize(
    ("kdf", "passphrase", "wanted"),
    [
        # RFC 6070, section 2, second and third vectors.
        (Pbkdf2("sha1", 2, b"salt"), b"password", "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957"),
        (Pbkdf2("sha1", 4096, b"salt"), b"password", "4b007901b765489abead49d926f721d065a429c1"),
        # RFC 7914, section 11, first vector.
        (
            Pbkdf2("sha256", 1, b"salt"), b"passwd",
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
            "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
        ),
        # The reference implementation of Argon2 (phc-winner-argon2, src/test.c, version 0x13).
        (
            Argon2("argon2i", 2, 65536, 1, b"somesalt"), b"password",
            "c1628832147d9720c5bd1cfd61367078729f6dfb6f8fea9ff98158e0d7816ed0",
        ),
        (
            Argon2("argon2id", 2, 65536, 1, b"somesalt"), b"password",
            "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7",
        ),
        (
            Argon2("argon2id", 2, 256, 2, b"somesalt"), b"password",
            "6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037",
        ),
    ],
)  # fmt: skip
def test_published_vectors(kdf: Kdf, passphrase: bytes, wanted: str) -> None:
    assert derive(kdf, Secret(passphrase), len(wanted) // 2).hex() == wanted


def test_a_random_key_is_not_stretched_and_a_typed_passphrase_is() -> None:
    for_key = new_kdf("pbkdf2", passphrase=RANDOM_KEY, random=seeded("kdf"))
    for_typed = new_kdf("pbkdf2", passphrase=TYPED, random=seeded("kdf"))
    assert isinstance(for_key, Pbkdf2)
    assert isinstance(for_typed, Pbkdf2)
    assert for_key.iterations == 1000
    assert for_typed.iterations >= 1_000_000
    assert len(for_key.salt) == 32


@pytest.mark.parametrize(
    "arguments",
    [
        {"pbkdf": "scrypt"},
        {"pbkdf": "pbkdf2", "hash_name": "md5"},
        {"pbkdf": "pbkdf2", "iterations": 999},
        {"pbkdf": "argon2id", "iterations": 3},
        {"pbkdf": "argon2id", "memory_kib": 31},
        {"pbkdf": "argon2id", "cpus": 5},
        {"pbkdf": "argon2id", "cpus": 0},
    ],
)
def test_parameters_outside_the_format_are_refused(arguments: dict[str, str | int]) -> None:
    with pytest.raises(UsageError):
        new_kdf(**arguments, passphrase=RANDOM_KEY, random=seeded("kdf"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kdf", "limit"),
    [
        (Pbkdf2("sha256", 11, SALT), "pbkdf2_iterations"),
        (Argon2("argon2id", 1, 101, 1, SALT), "argon2_memory_kib"),
        (Argon2("argon2id", 11, 100, 1, SALT), "argon2_work_kib"),
        (Argon2("argon2id", 1, 100, 3, SALT), "argon2_cpus"),
    ],
)
def test_each_limit_is_named_by_its_error(kdf: Kdf, limit: str) -> None:
    limits = KdfLimits(10, 100, 1000, 2, 4)
    with pytest.raises(KdfCostTooHigh, match=rf"keyslot 3: .* \(limit {limit}\)") as caught:
        Budget(limits).spend("keyslot 3", kdf)
    assert f"{limit}=" in caught.value.hint


@pytest.mark.parametrize("kdf", [Pbkdf2("sha256", 10, SALT), Argon2("argon2id", 10, 100, 2, SALT)])
def test_many_keyslots_of_allowed_cost_are_bounded_together(kdf: Kdf) -> None:
    budget = Budget(KdfLimits(10, 100, 1000, 2, 4))
    for _ in range(4):
        budget.spend("keyslot", kdf)
    with pytest.raises(KdfCostTooHigh, match="limit keyslots"):
        budget.spend("keyslot", kdf)


def test_limits_are_parsed_by_name() -> None:
    assert KdfLimits.parse("") == KdfLimits()
    assert KdfLimits.parse("argon2_cpus=8,keyslots=1") == KdfLimits(argon2_cpus=8, keyslots=1)


@pytest.mark.parametrize("text", ["x=1", "keyslots", "keyslots=0", "keyslots=-1", "keyslots=1e3"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        KdfLimits.parse(text)
    assert "pbkdf2_iterations" in caught.value.hint


def test_memory_that_cannot_be_had_is_a_typed_error() -> None:
    with pytest.raises(KdfCostTooHigh, match="could not get"):
        derive(Argon2("argon2id", 1, 2**32 - 8, 1, SALT), TYPED, 32)
