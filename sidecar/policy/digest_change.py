"""A key that is refused because the security policy changed since it was imported: which policy, and what
changed.

Strategy: the key's release policy names the digest it was imported for, the token names the digest that the
guest runs under. Policies are content-addressed by that digest, so any file at hand that has one of the two
digests is the policy itself, wherever it came from; with both at hand the difference can be shown.

Kind: pure
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.diff import Difference, compare, describe_difference
from sidecar.policy.digest import FoundPolicy
from sidecar.policy.inspect_text import Paint
from sidecar.releasepolicy import Evaluation

HOST_DATA = "x-ms-sevsnpvm-hostdata"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEAD = "policy digest changed since the key was imported"


@dataclass(frozen=True, slots=True)
class DigestChange:
    """The change.

    Attributes:
        imported_for: digest that the key's release policy wants, hex.
        running: digest of the policy that the guest runs under, hex.
        difference: what changed; None when one of the two policies is not at hand.
        missing: digests whose policy is not at hand.
        problem: why two policies at hand could not be compared, "" when they could.
    """

    imported_for: str
    running: str
    difference: Difference | None
    missing: tuple[str, ...] = ()
    problem: str = ""

    def to_text(self, paint: Paint | None = None) -> str:
        """Several lines, without a line end at the last."""
        lines = [_HEAD, f"  imported for  {self.imported_for}", f"  running under {self.running}"]
        if self.difference is not None:
            lines += ["", describe_difference(self.difference, paint)]
        elif self.problem:
            lines.append(f"  the two policies cannot be compared: {self.problem}")
        else:
            lines += [f"  give the policy {digest[:12]}... to see what changed" for digest in self.missing]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """The same as JSON."""
        return {
            "words": _HEAD,
            "imported_for": self.imported_for,
            "running": self.running,
            "changes": None if self.difference is None else self.difference.to_json()["changes"],
            "missing": list(self.missing),
            "problem": self.problem,
        }


def digest_change(evaluation: Evaluation, at_hand: Iterable[FoundPolicy]) -> DigestChange | None:
    """The change that stands in the key's way; None when the policy's digest is not what failed.

    Args:
        evaluation: of the key's release policy and the guest's token.
        at_hand: policies that may be one of the two, of any origin.
    """
    pairs = list(dict.fromkeys(_pairs(evaluation)))
    if not pairs:
        return None
    known = {policy.digest: policy for policy in at_hand}
    # Of several policies that the key would be released to, the one at hand is the one to compare with.
    wanted, seen = next((pair for pair in pairs if pair[0] in known), pairs[0])
    missing = tuple(digest for digest in (wanted, seen) if digest not in known)
    if missing:
        return DigestChange(wanted, seen, None, missing)
    try:
        return DigestChange(wanted, seen, compare(known[wanted], known[seen]))
    except MalformedInput as exc:
        return DigestChange(wanted, seen, None, problem=str(exc))


def _pairs(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Digest wanted and seen, of every failed condition on it."""
    if evaluation.granted:
        return
    for _, condition in evaluation.failures():
        wanted, seen = str(condition.wanted).lower(), str(condition.seen).lower()
        if condition.claim == HOST_DATA and _DIGEST.fullmatch(wanted) and _DIGEST.fullmatch(seen):
            yield wanted, seen
