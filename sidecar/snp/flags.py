"""The flag words of a report, bit by bit. Bits without a name are kept; policy decides about them.

Spec: AMD 56860 (SNP firmware ABI), guest POLICY and PLATFORM_INFO; bit 6 of PLATFORM_INFO is set on real
Turin parts although the tables read so far call it reserved.

Kind: pure
"""

from __future__ import annotations

from enum import KEEP, IntFlag


class GuestPolicy(IntFlag, boundary=KEEP):
    """Bits 16 and up of POLICY; the lowest 16 bits are the minimum ABI version."""

    SMT = 1 << 16
    MUST_BE_ONE = 1 << 17
    MIGRATE_MA = 1 << 18
    DEBUG = 1 << 19
    SINGLE_SOCKET = 1 << 20
    CXL_ALLOW = 1 << 21
    MEM_AES_256_XTS = 1 << 22
    RAPL_DIS = 1 << 23
    CIPHERTEXT_HIDING_DRAM = 1 << 24
    PAGE_SWAP_DISABLE = 1 << 25


class PlatformInfo(IntFlag, boundary=KEEP):
    """PLATFORM_INFO."""

    SMT_EN = 1 << 0
    TSME_EN = 1 << 1
    ECC_EN = 1 << 2
    RAPL_DIS = 1 << 3
    CIPHERTEXT_HIDING_DRAM_EN = 1 << 4
    ALIAS_CHECK_COMPLETE = 1 << 5
    SEV_TIO_EN = 1 << 7


POLICY_RESERVED = ~((1 << 26) - 1)


def policy_abi(policy: int) -> tuple[int, int]:
    """Minimum firmware ABI the guest's owner asked for, as (major, minor)."""
    return policy >> 8 & 0xFF, policy & 0xFF


def names(flags: IntFlag) -> list[str]:
    """Names of the set bits in order; a bit without a name appears as "bit 6"."""
    known = {int(member): member.name or "" for member in type(flags)}
    bits = (1 << i for i in range(int(flags).bit_length()) if int(flags) >> i & 1)
    return [known.get(bit, f"bit {bit.bit_length() - 1}").lower() for bit in bits]
