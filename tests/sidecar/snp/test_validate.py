"""Policy on the fields of a genuine report: each wish passes once and fails once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes.snp_chain import CPUIDS, NOW, Authority

from sidecar.errors import ExitCode, PolicyRejected
from sidecar.snp.flags import GuestPolicy, PlatformInfo
from sidecar.snp.report import FirmwareVersion, parse_report
from sidecar.snp.roots import Roots
from sidecar.snp.tcb import ProductLine, Tcb, TcbLayout
from sidecar.snp.validate import VerifyPolicy, validate
from sidecar.snp.verify import verify_evidence

MILAN, GENOA, TURIN = ProductLine
POLICY = 0x3001F


def tcb(*, boot_loader: int = 4, snp: int = 0x18, microcode: int = 0xDB) -> Tcb:
    return Tcb.of(TcbLayout.MILAN, boot_loader=boot_loader, snp=snp, microcode=microcode)


# Name of the check, the wish, what makes it pass, what makes it fail, words of the refusal.
TABLE: list[tuple[str, dict[str, object], dict[str, object], dict[str, object], str]] = [
    ("vmpl", {}, {}, {"vmpl": 1}, "1, wanted 0"),
    ("vmpl", {"vmpl": 2}, {"vmpl": 2}, {"vmpl": 3}, "3, wanted 2"),
    ("vmpl", {"vmpl": None}, {"vmpl": 3}, {"vmpl": 4}, "4, wanted 0 to 3"),
    ("vmpl", {"vmpl": None}, {}, {"vmpl": 0xFFFFFFFF}, "asked for by the host"),
    ("guest policy", {}, {}, {"policy": 0x1001F}, "0x1001f, wanted bit 17 set"),
    ("guest policy", {}, {}, {"policy": POLICY | 1 << 26}, "bits 63:26 zero"),
    ("guest policy", {}, {}, {"policy": POLICY | 1 << 63}, "bits 63:26 zero"),
    ("debug", {}, {}, {"policy": POLICY | 1 << 19}, "on, wanted off"),
    ("migration agent", {}, {}, {"policy": POLICY | 1 << 18}, "allowed, wanted not allowed"),
    ("TCB order", {}, {}, {"committed_tcb": tcb(snp=0x19)}, "committed: snp 24 < 25"),
    (
        "TCB order",
        {},
        {"launch_tcb": tcb(snp=0x20)},
        {"current_tcb": tcb(boot_loader=3)},
        "boot_loader 3 < 4",
    ),
    (
        "measurement",
        {"measurements": frozenset({b"m" * 48, b"x" * 48})},
        {},
        {"measurement": b"n" * 48},
        "6e6e",
    ),
    ("host data", {"host_data": frozenset({b"h" * 32})}, {}, {"host_data": b"i" * 32}, "wanted 6868"),
    ("report data", {"report_data": b"d" * 64}, {}, {"report_data": b"e" * 64}, "wanted 6464"),
    ("family id", {"family_id": bytes(16)}, {}, {"family_id": b"f" * 16}, "6666"),
    ("image id", {"image_id": b"i" * 16}, {"image_id": b"i" * 16}, {}, "wanted 6969"),
    ("report id", {"report_id": bytes(32)}, {}, {"report_id": b"r" * 32}, "7272"),
    (
        "report id of the migration agent",
        {"report_id_ma": b"\xff" * 32},
        {},
        {"report_id_ma": bytes(32)},
        "wanted ffff",
    ),
    (
        "accepted chip",
        {"chip_ids": frozenset({Authority().chip_id}), "allow_masked_chip_id": True},
        {},
        {"chip_id": bytes(64)},
        "0000, wanted 0102",
    ),
    ("id key", {"id_keys": frozenset({b"k" * 48})}, {"id_key_digest": b"k" * 48}, {}, "wanted 6b6b"),
    (
        "author key",
        {"author_keys": frozenset({b"a" * 48})},
        {"author_key_digest": b"a" * 48, "flags": 1},
        {"author_key_digest": b"a" * 48},
        "wanted 6161",
    ),
    ("accepted product line", {"product_lines": frozenset({MILAN})}, {}, {}, ""),
    ("minimum TCB", {"minimum_tcb": {MILAN: tcb(snp=0x10)}}, {}, {}, ""),
    ("minimum TCB", {"minimum_tcb": {MILAN: tcb()}}, {}, {}, ""),
    (
        "minimum launch TCB",
        {"minimum_launch_tcb": {MILAN: tcb()}},
        {"launch_tcb": tcb(snp=0x19)},
        {"launch_tcb": tcb(snp=0x17, microcode=0xFF)},
        "snp 23 < 24, wanted boot_loader=4",
    ),
    ("guest SVN", {"minimum_guest_svn": 3}, {"guest_svn": 3}, {"guest_svn": 2}, "2, wanted at least 3"),
    (
        "guest policy ABI",
        {"minimum_abi": (0, 31)},
        {},
        {"policy": 0x30000 | 30},
        "0.30, wanted at least 0.31",
    ),
    ("guest policy ABI", {"minimum_abi": (1, 0)}, {"policy": 0x30100}, {"policy": 0x300FF}, "0.255, wanted"),
    (
        "firmware version",
        {"minimum_version": FirmwareVersion(1, 55, 20)},
        {"committed_version": FirmwareVersion(1, 55, 20)},
        {"committed_version": FirmwareVersion(1, 54, 99)},
        "1.54.99, wanted at least 1.55.20",
    ),
    ("committed", {"require_committed": True}, {}, {"committed_tcb": tcb(snp=0x17)}, "committed 1.55.29"),
    (
        "committed",
        {"require_committed": True},
        {},
        {"committed_version": FirmwareVersion(1, 55, 28)},
        "committed 1.55.28",
    ),
    (
        "mitigations",
        {"required_mitigations": 0b11},
        {"version": 5, "launch_mitigations": 0b111, "current_mitigations": 0b11},
        {"version": 5, "launch_mitigations": 0b01, "current_mitigations": 0b11},
        "launch 0x1, current 0x3, wanted 0x3 in both",
    ),
    (
        "mitigations",
        {"required_mitigations": 1},
        {"version": 5, "launch_mitigations": 1, "current_mitigations": 1},
        {},
        "launch 0x0",
    ),
    (
        "guest policy flags",
        {"required_policy": GuestPolicy.SINGLE_SOCKET | GuestPolicy.MEM_AES_256_XTS},
        {"policy": POLICY | 1 << 20 | 1 << 22},
        {"policy": POLICY | 1 << 20},
        "without",
    ),
    (
        "guest policy flags",
        {"forbidden_policy": GuestPolicy.SMT | GuestPolicy.CXL_ALLOW},
        {"policy": 0x2001F},
        {},
        "smt, must_be_one, wanted with",
    ),
    (
        "platform flags",
        {"required_platform": PlatformInfo.ALIAS_CHECK_COMPLETE | PlatformInfo.ECC_EN},
        {},
        {"platform_info": 0x05},
        "smt_en, ecc_en, wanted with",
    ),
    (
        "platform flags",
        {"forbidden_platform": PlatformInfo.SMT_EN},
        {"platform_info": 0x44},
        {"platform_info": 0x45},
        "smt_en, ecc_en, bit 6",
    ),
]


@pytest.mark.parametrize(
    ("name", "wish", "good", "bad", "words"), TABLE, ids=[f"{i}-{row[0]}" for i, row in enumerate(TABLE)]
)
def test_each_wish(
    name: str, wish: dict[str, object], good: dict[str, object], bad: dict[str, object], words: str
) -> None:
    authority = Authority()
    chain = authority.chain()
    roots = Roots.of(chain.ark)
    policy = VerifyPolicy(**wish)
    seen = verify_evidence(authority.report(**good), chain, roots=roots, at=NOW, policy=policy)
    assert name in {check.name for check in seen.checks}
    if words:
        with pytest.raises(PolicyRejected) as caught:
            verify_evidence(authority.report(**bad), chain, roots=roots, at=NOW, policy=policy)
        assert str(caught.value).startswith(f"{name}: ")
        assert words in str(caught.value)
        assert caught.value.exit_code is ExitCode.POLICY_REJECTED


@pytest.mark.parametrize(
    ("wish", "policy"),
    [({"allow_debug": True}, POLICY | 1 << 19), ({"allow_migration": True}, POLICY | 1 << 18)],
)
def test_consent_lets_the_host_in(wish: dict[str, object], policy: int) -> None:
    authority = Authority()
    chain = authority.chain()
    report = authority.report(policy=policy)
    verify_evidence(report, chain, roots=Roots.of(chain.ark), at=NOW, policy=VerifyPolicy(**wish))


def failed(line: ProductLine | None, policy: VerifyPolicy, **changes: object) -> list[str]:
    report = parse_report(Authority(line or MILAN).report(**changes))
    return [f"{check.name}: {check.detail}" for check in validate(report, line, policy) if not check.ok]


def test_floors_are_by_product_line() -> None:
    floors = {GENOA: Tcb.of(TcbLayout.MILAN, snp=0x17), TURIN: Tcb.of(TcbLayout.TURIN, fmc=2)}
    policy = VerifyPolicy(minimum_tcb=floors)
    assert failed(GENOA, policy) == []
    assert failed(TURIN, policy) == [
        "minimum TCB: fmc 1 < 2, wanted fmc=2 boot_loader=0 tee=0 snp=0 microcode=0"
    ]
    assert failed(MILAN, policy) == ["minimum TCB: no floor for product line Milan, wanted one"]
    assert failed(None, policy) == ["minimum TCB: no floor for product line unknown, wanted one"]


def test_a_version_2_report_is_read_in_the_proven_layout() -> None:
    """Masked chip id and no CPUID: the parser cannot know it is a Turin, the chain does."""
    old = {"version": 2, "cpuid": None, "chip_id": bytes(64)}
    policy = VerifyPolicy(minimum_tcb={TURIN: Tcb.of(TcbLayout.TURIN, snp=4)})
    report = parse_report(Authority(TURIN).report(**old))
    assert report.reported_tcb.layout is TcbLayout.MILAN
    assert failed(TURIN, policy, **old) == []
    higher = replace(policy, minimum_tcb={TURIN: Tcb.of(TcbLayout.TURIN, snp=5)})
    assert failed(TURIN, higher, **old)[0].startswith("minimum TCB: snp 4 < 5")


def test_accepted_lines() -> None:
    policy = VerifyPolicy(product_lines=frozenset({GENOA, TURIN}))
    assert failed(MILAN, policy) == ["accepted product line: Milan, wanted Genoa, Turin"]
    assert failed(None, policy) == ["accepted product line: unknown, wanted Genoa, Turin"]
    assert failed(TURIN, policy) == []


def test_cpuids_cover_every_line() -> None:
    assert {line: cpuid.product_line for line, cpuid in CPUIDS.items()} == {
        line: line for line in ProductLine
    }
