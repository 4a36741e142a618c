"""A claim that failed, in words: what was seen, what was wanted, why that happens and what to do about it.

Strategy: one table from claim name to reason and hint; a few shapes of failure (claim absent, wanted value
in capitals, an object where a value was wanted) are told before the table, because they are mistakes of the
policy and not of the guest.

Rules: what a token says is printed on one line, printable characters only, bounded. Nothing here decides
anything: `releasepolicy.evaluate` has done that.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sidecar.releasepolicy import ABSENT, ConditionResult, find_claim, loosely_equal
from sidecar.strictjson import dump_json

# A confidential VM's token keeps the claims of the hardware in this object.
ISOLATION_TEE = "x-ms-isolation-tee"
_SHORT = 16  # characters shown of a value too long for a one-line message
_WHOLE = 96  # characters of one that is not: a launch measurement in hexadecimal
_LONG = 200


@dataclass(frozen=True, slots=True)
class Advice:
    """Why a claim failed and what to do, in words; public. `hint` is empty when nothing useful is known."""

    reason: str = ""
    hint: str = ""


def advise(result: ConditionResult, claims: Mapping[str, object] | None = None) -> Advice:
    """What to say about a failed condition.

    Args:
        result: the condition, with what was seen.
        claims: the whole token where it is at hand; lets misspelled names be told.
    """
    if result.seen is ABSENT:
        return _absent(result.claim, claims)
    if isinstance(result.seen, Mapping | list) or result.seen is None:
        return Advice(
            "objects, arrays and null are equal to nothing",
            "name one member of it, with dots, in the policy",
        )
    if isinstance(result.wanted, str) and loosely_equal(result.wanted.lower(), _lowered(result.seen)):
        return Advice(
            "the two differ in capital letters only",
            "correct the policy: tokens have lower-case hexadecimal digits, true and false",
        )
    rule = _RULES.get(base_name(result.claim))
    return Advice() if rule is None else rule(result)


def base_name(claim: str) -> str:
    """The claim's name without the object that confidential VMs put it in."""
    return claim.removeprefix(f"{ISOLATION_TEE}.")


def show_value(value: object) -> str:
    """A value on one line, at most 200 characters, printable."""
    if value is ABSENT:
        return "absent"
    text = value if isinstance(value, str) else dump_json(value).decode()
    text = "".join(c if c.isprintable() else "?" for c in text[: _LONG + 1])
    return (text[:_LONG] + "…" if len(text) > _LONG else text) or '""'


def show_values(*values: object) -> list[str]:
    """Values for a one-line message: long ones cut, but never so that different values look alike."""
    whole = [show_value(value) for value in values]
    cut = [_cut(text) for text in whole]
    return cut if len(set(cut)) == len(set(whole)) else whole


def _cut(text: str) -> str:
    return text if len(text) <= _WHOLE else text[:_SHORT] + "…"


def _lowered(seen: object) -> object:
    return seen.lower() if isinstance(seen, str) else seen


def _absent(claim: str, claims: Mapping[str, object] | None) -> Advice:
    if near := _near_name(claim, claims or {}):
        return Advice("the token has no claim of that name", f"did the policy mean {near}?")
    if base_name(claim) in ("x-ms-compliance-status", "x-ms-sevsnpvm-uvm-endorsement") or claim.startswith(
        "x-ms-sevsnpvm-uvm-endorsement."
    ):
        return Advice(
            "the authority found no endorsement of the utility VM that it knows",
            "hand the guest's reference info to the attestation (see UVM_SECURITY_CONTEXT_DIR); its launch "
            "measurement must be the endorsed one",
        )
    return Advice("the token has no such claim", "check the spelling in the policy; case counts")


def _near_name(claim: str, claims: Mapping[str, object]) -> str:
    """A claim the token does have that the policy may have meant, or nothing."""
    other = base_name(claim) if claim.startswith(ISOLATION_TEE) else f"{ISOLATION_TEE}.{claim}"
    if find_claim(claims, other) is not ABSENT:
        return other
    return next((name for name in claims if name.lower() == claim.lower()), "")


def _host_data(result: ConditionResult) -> Advice:
    seen, wanted = str(result.seen), show_value(result.wanted)
    if not seen.strip("0"):
        return Advice(
            "the guest was started without a security policy",
            f"start it with the security policy whose SHA-256 is {wanted}",
        )
    return Advice(
        "the security policy is not the one the key was imported for",
        f"start the guest with the policy whose SHA-256 is {wanted}, or, if the new policy is meant, give "
        f"the key a release policy for {show_value(seen)} (sidecar import-key --policy-digest)",
    )


def _debug(result: ConditionResult) -> Advice:
    if result.seen is True:
        return Advice(
            "the host may read and change the memory of this guest",
            "start the guest without the debug bit in its SNP policy; such a guest must get no keys",
        )
    return Advice("the policy asks for debuggable guests", "correct the policy: it should say false")


def _vmpl(result: ConditionResult) -> Advice:
    return Advice(
        f"the report was made at privilege level {show_value(result.seen)}",
        "attest from the level the policy names, or name the level of this kind of guest in it",
    )


def _attestation_type(result: ConditionResult) -> Advice:
    if result.seen == "azurevm":
        return Advice(
            "this is the token of a confidential VM, not of a container group",
            f"its SNP claims are members of {ISOLATION_TEE}; import the key with a policy that names them so",
        )
    return Advice(
        "another kind of guest", "attest as the kind the policy names, or import the key for this one"
    )


def _compliance(_: ConditionResult) -> Advice:
    return Advice(
        "another kind of utility VM",
        "azure-compliant-uvm is a container group, azure-signed-katacc-uvm AKS Kata, azure-compliant-cvm a "
        "confidential VM; name the one this guest is in the policy",
    )


def _measurement(_: ConditionResult) -> Advice:
    return Advice(
        "the guest booted another image, perhaps an update of the utility VM",
        "add the new value as an alternative; x-ms-compliance-status holds across updates, measurements do "
        "not",
    )


def _firmware(_: ConditionResult) -> Advice:
    return Advice(
        "the host has other firmware, and the policy has only `equals`",
        "leave firmware versions to the attestation authority's own policy",
    )


def _migration(_: ConditionResult) -> Advice:
    return Advice(
        "the SNP policy lets a migration agent move this guest", "start it without the migration bit"
    )


_RULES: dict[str, Callable[[ConditionResult], Advice]] = {
    "x-ms-sevsnpvm-hostdata": _host_data,
    "x-ms-sevsnpvm-is-debuggable": _debug,
    "x-ms-sevsnpvm-migration-allowed": _migration,
    "x-ms-sevsnpvm-vmpl": _vmpl,
    "x-ms-attestation-type": _attestation_type,
    "x-ms-compliance-status": _compliance,
    "x-ms-sevsnpvm-launchmeasurement": _measurement,
    "x-ms-sevsnpvm-uvm-endorsement.x-ms-sevsnpvm-launchmeasurement": _measurement,
    "x-ms-sevsnpvm-guestsvn": _measurement,
    "x-ms-sevsnpvm-uvm-endorsement.x-ms-sevsnpvm-guestsvn": _measurement,
    "x-ms-sevsnpvm-bootloader-svn": _firmware,
    "x-ms-sevsnpvm-tee-svn": _firmware,
    "x-ms-sevsnpvm-snpfw-svn": _firmware,
    "x-ms-sevsnpvm-microcode-svn": _firmware,
}
