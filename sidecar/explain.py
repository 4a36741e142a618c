"""Why a release policy releases a key or not: each clause and claim, wanted and seen, and what to do.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.releasepolicy import AuthorityResult, ConditionResult, Evaluation, GroupResult, build_policy
from sidecar.strictjson import JsonObject

HOST_DATA = "x-ms-sevsnpvm-hostdata"
_MAX_SHOWN = 200

# What a failed claim usually means, and the cure.
_CURES: Mapping[str, str] = {
    HOST_DATA: "the security policy is not the one the key was imported for: deploy that one, or import "
    "the key again for this one (its digest: sidecar policy digest)",
    "x-ms-sevsnpvm-is-debuggable": "the guest was launched with debugging allowed, so its host could read it",
    "x-ms-sevsnpvm-vmpl": "the report was made at another privilege level than the policy wants",
    "x-ms-compliance-status": "the authority did not recognise the utility VM: the host's reference info is "
    "missing, or of another image",
    "x-ms-attestation-type": "the policy is for another kind of guest than SEV-SNP containers",
    "x-ms-sevsnpvm-launchmeasurement": "the utility VM is another image than the one the policy names",
    "x-ms-sevsnpvm-migration-allowed": "the guest may be migrated, which the policy forbids",
}
_ABSENT_CURE = "the token has no such claim: check its spelling in the release policy"
# What `--suggest` demands of a guest: what it runs, and that nobody can look into it.
_SUGGESTED = (
    HOST_DATA,
    "x-ms-attestation-type",
    "x-ms-compliance-status",
    "x-ms-sevsnpvm-is-debuggable",
    "x-ms-sevsnpvm-vmpl",
    "x-ms-sevsnpvm-migration-allowed",
)


@dataclass(frozen=True, slots=True)
class Advice:
    """One failed claim in words, and what to do."""

    words: str
    cure: str


def advise(evaluation: Evaluation) -> tuple[Advice, ...]:
    """Every reason why the key is not released; empty when it is."""
    if evaluation.granted:
        return ()
    failures = [condition for _, condition in evaluation.failures()]
    if not failures:
        wanted = ", ".join(entry.authority for entry in evaluation.authorities)
        words = f"the token is of authority {evaluation.issuer}, wanted {wanted}"
        return (Advice(words, "attest with the authority that the key's release policy names"),)
    return tuple(_advice(condition) for condition in dict.fromkeys(failures))


def _advice(condition: ConditionResult) -> Advice:
    seen, wanted = _shown(condition.seen), _shown(condition.wanted)
    absent = repr(condition.seen) == "absent"
    cure = _CURES.get(condition.claim) or (_ABSENT_CURE if absent else "")
    return Advice(f"claim {condition.claim} is {seen}, wanted {wanted}", cure)


def refusal_words(evaluation: Evaluation) -> tuple[str, str]:
    """The reasons in one line, and the first cure."""
    advice = advise(evaluation)
    return "; ".join(a.words for a in advice), next((a.cure for a in advice if a.cure), "")


def describe(evaluation: Evaluation) -> str:
    """The whole evaluation for people: a line per claim, then the verdict and what to do."""
    lines: list[str] = []
    for entry in evaluation.authorities:
        note = "" if entry.matches else f"   (the token is of {evaluation.issuer}: not looked at)"
        lines.append(f"authority {entry.authority}{note}")
        if entry.matches:
            lines += _group_lines(entry.rule, 1)
    lines.append("released" if evaluation.granted else "not released")
    for advice in advise(evaluation):
        lines.append(f"  {advice.words}")
        if advice.cure:
            lines.append(f"    {advice.cure}")
    return "\n".join(lines)


def _group_lines(group: GroupResult, depth: int) -> list[str]:
    pad = "  " * depth
    lines = [f"{pad}{'ok  ' if group.ok else 'FAIL'} {group.kind}"]
    for member in group.members:
        if isinstance(member, GroupResult):
            lines += _group_lines(member, depth + 1)
        else:
            mark = "ok  " if member.ok else "FAIL"
            lines.append(
                f"{pad}  {mark} {member.claim}: wanted {_shown(member.wanted)}, seen {_shown(member.seen)}"
            )
    return lines


def to_json(evaluation: Evaluation) -> JsonObject:
    """The same for machines."""
    return {
        "released": evaluation.granted,
        "issuer": evaluation.issuer,
        "authorities": [_authority_json(entry) for entry in evaluation.authorities],
        "reasons": [{"words": a.words, "cure": a.cure} for a in advise(evaluation)],
    }


def _authority_json(entry: AuthorityResult) -> JsonObject:
    return {"authority": entry.authority, "matches": entry.matches, "rule": _group_json(entry.rule)}


def _group_json(group: GroupResult) -> JsonObject:
    members = [
        _group_json(m)
        if isinstance(m, GroupResult)
        else {"claim": m.claim, "wanted": m.wanted, "seen": _shown(m.seen), "ok": m.ok}
        for m in group.members
    ]
    return {"kind": str(group.kind), "ok": group.ok, "members": members}


def suggest(claims: Mapping[str, object]) -> JsonObject:
    """A release policy for the guest whose verified claims these are, as JSON."""
    wanted = [
        (name, str(value).lower() if isinstance(value, bool) else str(value))
        for name in _SUGGESTED
        if (value := claims.get(name)) is not None
    ]
    return build_policy([str(claims.get("iss"))], [wanted]).to_dict()


def _shown(value: object) -> str:
    """A value from outside, safe to print."""
    text = str(value).lower() if isinstance(value, bool) else repr(value) if value == "" else str(value)
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_SHOWN]) if text else "''"
