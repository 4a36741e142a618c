"""Policy on the fields of a report: what a genuine report must also say to be accepted.

Strategy: `VerifyPolicy` states wishes, `validate` turns each wish into one named check. A wish left at its
default adds no check, except those that nobody should have to ask for: VMPL 0, no debugging, no migration,
well-formed guest policy, TCBs in their only possible order.

Rules: TCBs and floors are compared component by component; fields of fixed content in constant time; a report
of a product line without a floor fails when floors were given at all.

Spec: AMD 56860 (SNP firmware ABI), ATTESTATION_REPORT, guest POLICY, PLATFORM_INFO, TCB_VERSION.

Kind: pure
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sidecar.snp.check import Cause, Check
from sidecar.snp.flags import POLICY_RESERVED, GuestPolicy, PlatformInfo, names, policy_abi
from sidecar.snp.report import VMPL_HOST, FirmwareVersion, Report
from sidecar.snp.tcb import ProductLine, Tcb

_NO_POLICY = GuestPolicy(0)
_NO_PLATFORM = PlatformInfo(0)


@dataclass(frozen=True, slots=True)
class VerifyPolicy:
    """What to accept. An empty set, None or a zero flag word asks nothing.

    Attributes:
        vmpl: privilege level the report must be for; None accepts 0 to 3.
        allow_debug, allow_migration: accept guests whose owner let the host in.
        allow_masked_chip_id: accept a VCEK report whose CHIP_ID the host zeroed; the key still binds it.
        measurements: accepted launch digests, 48 bytes each. host_data: accepted values, 32 bytes each.
        report_data: the 64 bytes the guest was asked to put in: freshness.
        minimum_tcb, minimum_launch_tcb: floors for REPORTED_TCB and LAUNCH_TCB by product line.
        minimum_abi: of the guest policy, (major, minor).
        minimum_version: of current and committed firmware.
        require_committed: refuse firmware that the host could still roll back (committed is not current).
        required_policy, forbidden_policy, required_platform, forbidden_platform: flags.
        id_keys, author_keys: accepted key digests, 48 bytes each.
        required_mitigations: bits that both mitigation vectors must have (version 5 reports only have them).
    """

    vmpl: int | None = 0
    allow_debug: bool = False
    allow_migration: bool = False
    allow_masked_chip_id: bool = False
    measurements: frozenset[bytes] = frozenset()
    host_data: frozenset[bytes] = frozenset()
    report_data: bytes | None = None
    minimum_tcb: Mapping[ProductLine, Tcb] = field(default_factory=dict)
    minimum_launch_tcb: Mapping[ProductLine, Tcb] = field(default_factory=dict)
    minimum_guest_svn: int = 0
    minimum_abi: tuple[int, int] = (0, 0)
    minimum_version: FirmwareVersion | None = None
    require_committed: bool = False
    required_policy: GuestPolicy = _NO_POLICY
    forbidden_policy: GuestPolicy = _NO_POLICY
    required_platform: PlatformInfo = _NO_PLATFORM
    forbidden_platform: PlatformInfo = _NO_PLATFORM
    family_id: bytes | None = None
    image_id: bytes | None = None
    report_id: bytes | None = None
    report_id_ma: bytes | None = None
    chip_ids: frozenset[bytes] = frozenset()
    id_keys: frozenset[bytes] = frozenset()
    author_keys: frozenset[bytes] = frozenset()
    required_mitigations: int = 0
    product_lines: frozenset[ProductLine] = frozenset()


def validate(report: Report, line: ProductLine | None, policy: VerifyPolicy) -> list[Check]:
    """Hold a report against a policy.

    Args:
        report: parsed; whether its signature holds is judged elsewhere.
        line: product line that the certificate chain proved, None when it proved none.

    Returns:
        Every check that the policy asks for, in a fixed order, passed or not.
    """
    return [
        *_always(report, policy),
        *_identity(report, policy),
        *_levels(report, line, policy),
        *_flags(report, policy),
    ]


def _always(report: Report, policy: VerifyPolicy) -> Iterator[Check]:
    yield _vmpl(report.vmpl, policy.vmpl)
    guest = GuestPolicy(report.policy)
    odd = report.policy & POLICY_RESERVED or not guest & GuestPolicy.MUST_BE_ONE
    yield _check("guest policy", not odd, f"{report.policy:#x}", "bit 17 set and bits 63:26 zero")
    yield _check(
        "debug",
        policy.allow_debug or not guest & GuestPolicy.DEBUG,
        "on" if guest & GuestPolicy.DEBUG else "off",
        "off",
        hint="the host may read and write this guest's memory; accept it only for tests",
    )
    yield _check(
        "migration agent",
        policy.allow_migration or not guest & GuestPolicy.MIGRATE_MA,
        "allowed" if guest & GuestPolicy.MIGRATE_MA else "not allowed",
        "not allowed",
    )
    lagging = [f"reported: {x}" for x in report.current_tcb.lagging(report.reported_tcb)]
    lagging += [f"committed: {x}" for x in report.current_tcb.lagging(report.committed_tcb)]
    yield _check("TCB order", not lagging, "; ".join(lagging) or "in order", "current not below the others")


def _vmpl(seen: int, wanted: int | None) -> Check:
    if seen == VMPL_HOST:
        return _check("vmpl", False, "asked for by the host", "asked for by the guest")
    ok = 0 <= seen <= 3 and wanted in (None, seen)
    return _check("vmpl", ok, str(seen), "0 to 3" if wanted is None else str(wanted))


def _identity(report: Report, policy: VerifyPolicy) -> Iterator[Check]:
    accepted: list[tuple[str, bytes, Iterable[bytes]]] = [
        ("measurement", report.measurement, policy.measurements),
        ("host data", report.host_data, policy.host_data),
        ("report data", report.report_data, _one(policy.report_data)),
        ("family id", report.family_id, _one(policy.family_id)),
        ("image id", report.image_id, _one(policy.image_id)),
        ("report id", report.report_id, _one(policy.report_id)),
        ("report id of the migration agent", report.report_id_ma, _one(policy.report_id_ma)),
        ("accepted chip", report.chip_id, policy.chip_ids),
        ("id key", report.id_key_digest, policy.id_keys),
    ]
    for name, seen, wanted in accepted:
        if wanted:
            yield _one_of(name, seen, wanted)
    if policy.author_keys:
        # The digest means nothing while FLAGS says that no author key was used.
        seen = report.author_key_digest if report.author_key_enabled else bytes(48)
        yield _one_of("author key", seen, policy.author_keys)


def _one(value: bytes | None) -> tuple[bytes, ...]:
    return () if value is None else (value,)


def _one_of(name: str, seen: bytes, wanted: Iterable[bytes]) -> Check:
    """Constant time in the content; the set is walked to its end."""
    choices = sorted(wanted)
    ok = sum(hmac.compare_digest(seen, choice) for choice in choices) > 0
    return _check(name, ok, seen.hex(), " or ".join(choice.hex() for choice in choices))


def _levels(report: Report, line: ProductLine | None, policy: VerifyPolicy) -> Iterator[Check]:
    if policy.product_lines:
        wanted = ", ".join(sorted(policy.product_lines))
        yield _check("accepted product line", line in policy.product_lines, str(line or "unknown"), wanted)
    for name, floors, tcb in (
        ("minimum TCB", policy.minimum_tcb, report.reported_tcb),
        ("minimum launch TCB", policy.minimum_launch_tcb, report.launch_tcb),
    ):
        if floors:
            yield _floor(name, tcb, line, floors)
    if policy.minimum_guest_svn:
        ok = report.guest_svn >= policy.minimum_guest_svn
        yield _check("guest SVN", ok, str(report.guest_svn), f"at least {policy.minimum_guest_svn}")
    if policy.minimum_abi > (0, 0):
        seen = policy_abi(report.policy)
        wanted_abi = "at least {}.{}".format(*policy.minimum_abi)
        yield _check("guest policy ABI", seen >= policy.minimum_abi, "{}.{}".format(*seen), wanted_abi)
    if policy.minimum_version:
        seen_version = min(report.current_version, report.committed_version)
        ok = seen_version >= policy.minimum_version
        yield _check("firmware version", ok, str(seen_version), f"at least {policy.minimum_version}")
    if policy.require_committed:
        ok = (report.committed_tcb, report.committed_version) == (report.current_tcb, report.current_version)
        seen_text = f"committed {report.committed_version} {report.committed_tcb}"
        yield _check("committed", ok, seen_text, f"current {report.current_version} {report.current_tcb}")
    if policy.required_mitigations:
        missing = policy.required_mitigations & ~(report.launch_mitigations & report.current_mitigations)
        seen_text = f"launch {report.launch_mitigations:#x}, current {report.current_mitigations:#x}"
        yield _check("mitigations", not missing, seen_text, f"{policy.required_mitigations:#x} in both")


def _floor(name: str, tcb: Tcb, line: ProductLine | None, floors: Mapping[ProductLine, Tcb]) -> Check:
    floor = floors.get(line) if line else None
    if floor is None:
        return _check(name, False, f"no floor for product line {line or 'unknown'}", "one")
    # The layout is the proven line's, whatever a version 2 report was read as.
    lagging = Tcb(tcb.raw, floor.layout).lagging(floor)
    hint = "the host runs firmware or microcode older than accepted; ask its operator to update"
    return _check(name, not lagging, "; ".join(lagging) or str(tcb), str(floor), hint=hint)


def _flags(report: Report, policy: VerifyPolicy) -> Iterator[Check]:
    words: list[tuple[str, GuestPolicy | PlatformInfo, int, int]] = [
        (
            "guest policy flags",
            GuestPolicy(report.policy & ~0xFFFF),
            policy.required_policy,
            policy.forbidden_policy,
        ),
        (
            "platform flags",
            PlatformInfo(report.platform_info),
            policy.required_platform,
            policy.forbidden_platform,
        ),
    ]
    for name, seen, required, forbidden in words:
        if required or forbidden:
            kind = type(seen)
            wanted = f"with {names(kind(required))}, without {names(kind(forbidden))}"
            ok = not (int(seen) & forbidden) and not (required & ~int(seen))
            yield _check(name, ok, ", ".join(names(seen)) or "none", wanted)


def _check(name: str, ok: bool, seen: str, wanted: str, *, hint: str = "") -> Check:
    detail = seen if ok else f"{seen}, wanted {wanted}"
    return Check(name, ok, detail, Cause.POLICY, "" if ok else hint)
