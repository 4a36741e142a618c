"""Key derivation of keyslots: PBKDF2 and Argon2, with a bound on what an untrusted header may cost.

The header chooses the cost, and whoever wrote the header may not be a friend: four thousand million
iterations would hold a container for an hour, and eight keyslots of that for a day. `KdfLimits` bounds one
keyslot, `Budget` bounds everything tried for one unlock.

Kind: pure

Spec: LUKS2 1.1.4, section 3.2.5; RFC 8018 (PBKDF2); RFC 9106 (Argon2).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

from encfs.errors import ForbiddenCipher, KdfCostTooHigh, MalformedMetadata, UnsupportedFeature, UsageError
from encfs.keys import Secret
from encfs.luks2.fields import Fields, Json, printable

HASHES = ("sha1", "sha256", "sha512")
SALT_SIZE = 32  # bytes, what the reference implementation writes and demands
FULL_ENTROPY_ITERATIONS = 1000  # the reference implementation's minimum; the key needs no stretching
PASSPHRASE_ITERATIONS = 2_000_000  # for typed passphrases where argon2id is not wanted


@dataclass(frozen=True, slots=True)
class Pbkdf2:
    """PBKDF2 parameters of a keyslot, public."""

    hash: str
    iterations: int
    salt: bytes


@dataclass(frozen=True, slots=True)
class Argon2:
    """Argon2 parameters of a keyslot, public; memory in KiB."""

    variant: Literal["argon2i", "argon2id"]
    time: int
    memory: int
    cpus: int
    salt: bytes


Kdf: TypeAlias = Pbkdf2 | Argon2


@dataclass(frozen=True, slots=True)
class KdfLimits:
    """What unlocking may cost; every field's name is what an error and the command line call it.

    Attributes:
        pbkdf2_iterations: of one keyslot or digest; the default takes some 10 s on one core.
        argon2_memory_kib: of one keyslot; 1 GiB is the most the reference implementation picks by itself.
        argon2_work_kib: memory times passes of one keyslot, KiB.
        argon2_cpus: lanes; the reference implementation picks at most 4.
        keyslots: how many keyslots of the largest allowed cost one unlock may try.
    """

    pbkdf2_iterations: int = 2**25
    argon2_memory_kib: int = 2**20
    argon2_work_kib: int = 2**24
    argon2_cpus: int = 4
    keyslots: int = 4

    @classmethod
    def parse(cls, text: str) -> KdfLimits:
        """Limits from `name=number,name=number`, defaults for the rest.

        Raises:
            UsageError: an unknown name, or no positive number.
        """
        names = [field.name for field in fields(cls)]
        changed: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, number = part.partition("=")
            if name not in names or not number.isascii() or not number.isdigit() or int(number) < 1:
                raise UsageError(
                    f"KDF limit {printable(part)}, wanted NAME=NUMBER", hint="names: " + ", ".join(names)
                )
            changed[name] = int(number)
        return replace(cls(), **changed)


class Budget:
    """What is left of the limits during one unlock."""

    def __init__(self, limits: KdfLimits) -> None:
        self.limits = limits
        self._iterations = limits.pbkdf2_iterations * limits.keyslots
        self._work = limits.argon2_work_kib * limits.keyslots

    def spend(self, name: str, kdf: Kdf) -> None:
        """Account for one derivation before it runs.

        Raises:
            KdfCostTooHigh: it costs more than one may, or more than is left for all of them.
        """
        limits = self.limits
        if isinstance(kdf, Pbkdf2):
            _cap(name, "pbkdf2 iterations", kdf.iterations, "pbkdf2_iterations", limits.pbkdf2_iterations)
            self._iterations -= kdf.iterations
        else:
            work = kdf.time * kdf.memory
            _cap(name, "KiB of argon2 memory", kdf.memory, "argon2_memory_kib", limits.argon2_memory_kib)
            _cap(name, "KiB of argon2 memory passes", work, "argon2_work_kib", limits.argon2_work_kib)
            _cap(name, "argon2 lanes", kdf.cpus, "argon2_cpus", limits.argon2_cpus)
            self._work -= work
        if self._iterations < 0 or self._work < 0:
            raise KdfCostTooHigh(
                f"{name}: the keyslots together cost more than {limits.keyslots} of the most costly kind,"
                " wanted less (limit keyslots)",
                hint="name the keyslot to try, or raise the limit keyslots",
            )


def _cap(name: str, what: str, seen: int, limit: str, most: int) -> None:
    if seen > most:
        raise KdfCostTooHigh(
            f"{name}: {seen} {what}, wanted at most {most} (limit {limit})",
            hint=f"if you trust this header, raise the limit: {limit}={seen}",
        )


def derive(kdf: Kdf, passphrase: Secret, size: int) -> bytes:
    """Derive the key of a keyslot's area.

    Args:
        kdf: parameters, whose cost the caller has checked with a `Budget`.
        passphrase: secret.
        size: bytes wanted.

    Returns:
        `size` bytes, secret.

    Raises:
        KdfCostTooHigh: argon2 could not get its memory.
    """
    if isinstance(kdf, Pbkdf2):
        return hashlib.pbkdf2_hmac(kdf.hash, passphrase.reveal(), kdf.salt, kdf.iterations, size)
    # Imported here: most keys are random, and their keyslots need no argon2.
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2i, Argon2id

    variant = Argon2id if kdf.variant == "argon2id" else Argon2i
    argon2 = variant(salt=kdf.salt, length=size, iterations=kdf.time, lanes=kdf.cpus, memory_cost=kdf.memory)
    try:
        return argon2.derive(passphrase.reveal())
    except MemoryError as exc:
        raise KdfCostTooHigh(
            f"argon2 could not get {kdf.memory} KiB of memory", hint="give the container more memory"
        ) from exc


def new_kdf(
    pbkdf: str,
    *,
    passphrase: Secret,
    random: Callable[[int], bytes],
    iterations: int | None = None,
    hash_name: str = "sha256",
    memory_kib: int = 64 * 1024,
    cpus: int = 1,
) -> Kdf:
    """Parameters for a new keyslot, with a fresh salt.

    Args:
        pbkdf: `pbkdf2`, `argon2i` or `argon2id`.
        passphrase: only its entropy is looked at: a random key needs no stretching.
        iterations: pbkdf2 iterations or argon2 passes; a default when absent.
        memory_kib: argon2 memory. The default of 64 MiB is RFC 9106's second recommended option, which
            fits a small container.

    Raises:
        UsageError: an unknown KDF or hash, or parameters below the format's minimum.
    """
    salt = random(SALT_SIZE)
    if pbkdf == "pbkdf2":
        enough = FULL_ENTROPY_ITERATIONS if passphrase.full_entropy else PASSPHRASE_ITERATIONS
        count = iterations or enough
        if hash_name not in HASHES or count < FULL_ENTROPY_ITERATIONS:
            raise UsageError(
                f"pbkdf2 with {hash_name}, {iterations} iterations, wanted one of {HASHES}, 1000"
            )
        return Pbkdf2(hash_name, count, salt)
    if pbkdf not in ("argon2i", "argon2id"):
        raise UsageError(f"KDF {printable(pbkdf)}, wanted pbkdf2, argon2i or argon2id")
    variant: Literal["argon2i", "argon2id"] = "argon2i" if pbkdf == "argon2i" else "argon2id"
    # 4 passes and 32 KiB are the reference implementation's minima for argon2.
    kdf = Argon2(variant, iterations or 4, memory_kib, cpus, salt)
    if kdf.time < 4 or kdf.memory < max(32, 8 * cpus) or not 1 <= cpus <= 4:
        raise UsageError(
            f"argon2 with {kdf.time} passes, {memory_kib} KiB, {cpus} lanes, wanted 4, 32 and 1 to 4"
        )
    return kdf


def parse_kdf(fields: Fields) -> Kdf:
    """Read the `kdf` object of a keyslot.

    Raises:
        MalformedMetadata, UnsupportedFeature, ForbiddenCipher: fields missing, KDF or hash unknown.
    """
    kind = fields.string("type")
    kdf: Kdf
    if kind == "pbkdf2":
        kdf = Pbkdf2(hash_field(fields, "hash"), fields.uint32("iterations"), salt_field(fields))
        bounded = kdf.iterations >= 1
    elif kind in ("argon2i", "argon2id"):
        variant: Literal["argon2i", "argon2id"] = "argon2i" if kind == "argon2i" else "argon2id"
        costs = (fields.uint32("time"), fields.uint32("memory"), fields.uint32("cpus"))
        kdf = Argon2(variant, *costs, salt_field(fields))
        # RFC 9106, section 3.1: at least one pass, one lane, and 8 KiB a lane.
        bounded = kdf.time >= 1 and kdf.cpus >= 1 and kdf.memory >= 8 * kdf.cpus
    else:
        raise UnsupportedFeature(f"{fields.name}: type {printable(kind)}, wanted pbkdf2, argon2i or argon2id")
    fields.done()
    if not bounded:
        raise MalformedMetadata(f"{fields.name}: cost parameters below the minimum of {kind}")
    return kdf


def build_kdf(kdf: Kdf) -> Json:
    """The `kdf` object; the inverse of `parse_kdf`."""
    salt = base64.b64encode(kdf.salt).decode("ascii")
    if isinstance(kdf, Pbkdf2):
        return {"type": "pbkdf2", "hash": kdf.hash, "iterations": kdf.iterations, "salt": salt}
    return {
        "type": kdf.variant, "time": kdf.time, "memory": kdf.memory, "cpus": kdf.cpus, "salt": salt,
    }  # fmt: skip


def hash_field(fields: Fields, member: str) -> str:
    """A hash name of the profile."""
    name = fields.string(member)
    if name not in HASHES:
        raise ForbiddenCipher(
            f"{fields.name}: hash {printable(name)}, wanted one of {', '.join(HASHES)}",
            hint="this driver does not open images with other hashes",
        )
    return name


def salt_field(fields: Fields) -> bytes:
    """A salt of 32 bytes."""
    salt = fields.binary("salt")
    if len(salt) != SALT_SIZE:
        raise MalformedMetadata(f"{fields.name}: salt of {len(salt)} bytes, wanted {SALT_SIZE}")
    return salt
