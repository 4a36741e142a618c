"""What a release policy fails to demand: warnings, not refusals, because a user may have reasons.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.releasepolicy import Condition, Group, GroupKind, ReleasePolicy, loosely_equal

_HOST_DATA = "x-ms-sevsnpvm-hostdata"


def weaknesses(policy: ReleasePolicy) -> tuple[str, ...]:
    """One sentence for each weakness of the policy, for the authorities that have it."""
    return tuple(
        f"authority {entry.authority}: {words}"
        for entry in policy.authorities
        for words in _of_rule(entry.rule)
    )


def _of_rule(rule: Group) -> Iterator[str]:
    demands = list(_certain(rule))
    names = {condition.claim for condition in demands}
    if _HOST_DATA not in names:
        yield f"no claim {_HOST_DATA}: any container group of any security policy gets the key"
    if not any(c.claim == "x-ms-sevsnpvm-is-debuggable" and loosely_equal(c.equals, False) for c in demands):
        yield "x-ms-sevsnpvm-is-debuggable need not be false: a guest that its host can read gets the key"
    if not names & {"x-ms-compliance-status", "x-ms-sevsnpvm-launchmeasurement"}:
        yield "neither x-ms-compliance-status nor a launch measurement: any utility VM image gets the key"
    if "x-ms-sevsnpvm-vmpl" not in names:
        yield "no claim x-ms-sevsnpvm-vmpl: code at any privilege level of the guest gets the key"


def _certain(group: Group) -> Iterator[Condition]:
    """Conditions that must hold whenever the group does: those not inside a choice."""
    if group.kind is GroupKind.ANY_OF and len(group.members) > 1:
        return
    for member in group.members:
        if isinstance(member, Group):
            yield from _certain(member)
        else:
            yield member
