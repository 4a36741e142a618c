"""The explainer: why a release policy does or does not release a key to an attestation token.

Strategy: `releasepolicy.evaluate` decides; this module only puts the outcome into words: `refusal_words` on
one line for error messages, `explain` as a tree for people and as JSON for programs.

Rules: everything that failed is shown, not only the first miss; of several clauses about the token's issuer
the one with the fewest misses is taken as the one that was meant. An expired token releases nothing,
whatever its claims.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from sidecar.advice import Advice, advise, show_value, show_values
from sidecar.maa import LEEWAY
from sidecar.releasepolicy import (
    ABSENT,
    AuthorityResult,
    ConditionResult,
    Evaluation,
    GroupKind,
    GroupResult,
    ReleasePolicy,
    evaluate,
)
from sidecar.strictjson import JsonObject

_MAX_NAMED = 4  # failed claims named in one line


def refusal_words(evaluation: Evaluation) -> tuple[str, str]:
    """One line for an error message, and its hint.

    Args:
        evaluation: of a policy that did not grant.

    Returns:
        (message, hint): the claims that failed with what was seen and wanted, or the wrong authority. Both
        empty for an evaluation that granted.
    """
    if evaluation.granted:
        return "", ""
    nearest = _nearest(evaluation)
    if nearest is None:
        advice = _wrong_authority(evaluation)
        return advice.reason, advice.hint
    misses = list(_misses(nearest.rule))
    words = [_miss_words(miss) for miss in misses[:_MAX_NAMED]]
    if len(misses) > _MAX_NAMED:
        words.append(f"and {len(misses) - _MAX_NAMED} more")
    return "; ".join(words), next((hint for miss in misses if (hint := advise(miss[0]).hint)), "")


# A miss is one failed condition, or the failed alternatives of which one had to hold.
_Miss = tuple[ConditionResult, ...]


def _nearest(evaluation: Evaluation) -> AuthorityResult | None:
    about = [a for a in evaluation.authorities if a.matches and not a.rule.ok]
    return min(about, key=lambda a: len(list(_misses(a.rule))), default=None)


def _misses(group: GroupResult) -> Iterator[_Miss]:
    """What has to change for the group to hold: each miss of an `allOf`, the nearest of an `anyOf`."""
    if group.kind is GroupKind.ALL_OF:
        for item in group.members:
            if isinstance(item, GroupResult):
                yield from () if item.ok else _misses(item)
            elif not item.ok:
                yield (item,)
        return
    leaves = tuple(item for item in group.members if isinstance(item, ConditionResult))
    if leaves:
        yield leaves
    else:
        groups = [list(_misses(item)) for item in group.members if isinstance(item, GroupResult)]
        yield from min(groups, key=len)


def _miss_words(miss: _Miss) -> str:
    first, shown = miss[0], miss[:_MAX_NAMED]
    if len({item.claim for item in miss}) > 1:
        return "none of " + ", ".join(f"{i.claim} = {show_value(i.wanted)}" for i in shown)
    seen, *wanted = show_values(first.seen, *(item.wanted for item in shown))
    reason = advise(first).reason
    alternatives = " or ".join(dict.fromkeys(wanted))
    return f"{first.claim} is {seen}, wanted {alternatives}" + (f" ({reason})" if reason else "")


def _wrong_authority(evaluation: Evaluation) -> Advice:
    known = list(dict.fromkeys(show_value(a.authority) for a in evaluation.authorities))
    names = " or ".join(known[:_MAX_NAMED])
    issuer = show_value(evaluation.issuer) if evaluation.issuer else "nobody"
    return Advice(
        f"the attestation token is issued by {issuer}, wanted {names}",
        f"attest with {names.replace('https://', '')}, or give the key a release policy for {issuer}",
    )


# -- the whole tree ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Explanation:
    """The outcome for people and programs; public.

    Attributes:
        evaluation: each authority, group and condition with what was seen.
        claims: the token's claims.
        expired: words about a token that is not valid at the time asked for; else empty.
    """

    evaluation: Evaluation
    claims: Mapping[str, object]
    expired: str = ""

    @property
    def granted(self) -> bool:
        """Policy and token would release the key."""
        return self.evaluation.granted and not self.expired

    def to_text(self) -> str:
        """Several lines, without a line end at the last."""
        lines = [self._verdict(), f"token issued by {show_value(self.evaluation.issuer)}"]
        for authority in self.evaluation.authorities:
            about = "" if authority.matches else " (not the issuer of this token)"
            lines += ["", f"{_word(authority.granted)} authority {show_value(authority.authority)}{about}"]
            lines += self._group_lines(authority.rule, "  ")
        if hints := self.hints():
            lines += ["", "what to do:", *(f"  - {hint}" for hint in hints)]
        return "\n".join(lines)

    def to_dict(self) -> JsonObject:
        """The same as JSON."""
        return {
            "released": self.granted,
            "issuer": self.evaluation.issuer,
            "reason": "" if self.granted else self._reason(),
            "authorities": [self._authority_dict(a) for a in self.evaluation.authorities],
            "hints": self.hints(),
        }

    def hints(self) -> list[str]:
        """What to do about a refusal, each thing once; empty when granted."""
        found = ["attest again: a token lives for eight hours"] if self.expired else []
        nearest = None if self.evaluation.granted else _nearest(self.evaluation)
        if nearest is not None:
            found += [advise(miss[0], self.claims).hint for miss in _misses(nearest.rule)]
        elif not self.evaluation.granted:
            found.append(_wrong_authority(self.evaluation).hint)
        return list(dict.fromkeys(hint for hint in found if hint))

    def _verdict(self) -> str:
        return "the key would be released" if self.granted else f"the key is refused: {self._reason()}"

    def _reason(self) -> str:
        return "; ".join(part for part in (self.expired, refusal_words(self.evaluation)[0]) if part)

    def _group_lines(self, group: GroupResult, indent: str) -> Iterator[str]:
        words = "all of" if group.kind is GroupKind.ALL_OF else "any one of"
        yield f"{indent}{_word(group.ok)} {words}:"
        for item in group.members:
            if isinstance(item, GroupResult):
                yield from self._group_lines(item, indent + "  ")
                continue
            yield f"{indent}  {_word(item.ok)} {item.claim} = {show_value(item.wanted)}"
            if not item.ok:
                reason = advise(item, self.claims).reason
                yield f"{indent}         seen {show_value(item.seen)}" + (f" ({reason})" if reason else "")

    def _authority_dict(self, result: AuthorityResult) -> JsonObject:
        return {
            "authority": result.authority,
            "is_issuer": result.matches,
            "ok": result.granted,
            **self._group_dict(result.rule),
        }

    def _group_dict(self, group: GroupResult) -> JsonObject:
        return {group.kind.value: [self._member_dict(item) for item in group.members]}

    def _member_dict(self, item: ConditionResult | GroupResult) -> JsonObject:
        if isinstance(item, GroupResult):
            return {"ok": item.ok, **self._group_dict(item)}
        found: JsonObject = {"claim": item.claim, "ok": item.ok, "wanted": item.wanted}
        if item.seen is not ABSENT:
            found["seen"] = item.seen
        if not item.ok:
            advice = advise(item, self.claims)
            found |= {"reason": advice.reason, "hint": advice.hint}
        return found


def explain(
    policy: ReleasePolicy, claims: Mapping[str, object], *, at: datetime | None = None
) -> Explanation:
    """Hold a policy against a token and explain the outcome.

    Args:
        policy: the key's release policy.
        claims: the token's payload. Whether its signature is good is not asked here.
        at: the time to judge the token's life by, aware; None leaves it out.
    """
    return Explanation(evaluate(policy, claims), claims, "" if at is None else _life(claims, at))


def _life(claims: Mapping[str, object], at: datetime) -> str:
    now = at.timestamp()
    expiry, start = claims.get("exp"), claims.get("nbf")
    if isinstance(expiry, int | float) and now >= expiry + LEEWAY:
        return f"the attestation token expired {now - expiry:.0f} s ago"
    if isinstance(start, int | float) and now < start - LEEWAY:
        return f"the attestation token is valid in {start - now:.0f} s only"
    return ""


def _word(ok: bool) -> str:
    return "pass" if ok else "FAIL"
