"""Release policies: parse, build and evaluate the clauses a vault checks against an attestation token.

Strategy: the policy becomes a small tree of frozen values; `evaluate` returns the same tree with what was
seen beside what was wanted, so the vault that decides and the explainer that tells why share one piece of
code.

Rules: unknown members, operators and versions are refused (a clause that is not understood must not be
passed over); empty groups are refused (an empty `allOf` would be true for everyone); an absent claim is a
failed claim; objects, arrays and null are equal to nothing. Text and number or boolean are compared by
their text, as the services do.

Spec: Azure Key Vault "key release policy grammar"; only `equals` is evaluated by the services today.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sidecar.errors import MalformedInput
from sidecar.strictjson import JsonObject, as_list, as_object, as_text, dump_json, load_json

Scalar = str | int | float | bool

VERSIONS = ("1.0.0", "1.0", "0.2")
MAX_POLICY = 64 << 10  # bytes
MAX_GROUP = 64  # conditions in one group
MAX_NESTING = 8
MAX_CLAIM = 512  # characters
_OTHER_OPERATORS = ("notEquals", "less", "lessOrEquals", "greater", "greaterOrEquals", "exists")


class GroupKind(StrEnum):
    """Wire words of a group of conditions."""

    ALL_OF = "allOf"
    ANY_OF = "anyOf"


@dataclass(frozen=True, slots=True)
class Condition:
    """One claim and the value it must have; dots in the name walk into objects."""

    claim: str
    equals: Scalar


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions of which all, or any one, must hold; never empty."""

    kind: GroupKind
    members: tuple[Condition | Group, ...]


@dataclass(frozen=True, slots=True)
class Authority:
    """What tokens of one issuer must say."""

    authority: str
    rule: Group


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """A whole policy: any one authority whose rule holds releases the key."""

    version: str
    authorities: tuple[Authority, ...]

    def to_dict(self) -> JsonObject:
        """The policy as JSON, in the member order of the vendor's documents."""
        return {
            "version": self.version,
            "anyOf": [
                {"authority": a.authority, a.rule.kind.value: [_dump(m) for m in a.rule.members]}
                for a in self.authorities
            ],
        }

    def to_bytes(self) -> bytes:
        """Compact JSON, UTF-8; public."""
        return dump_json(self.to_dict())


# -- parse and build -------------------------------------------------------------------------------


def parse_policy(data: bytes | Mapping[str, object], *, what: str = "release policy") -> ReleasePolicy:
    """Read a policy.

    Args:
        data: JSON of at most 64 KiB, or the object itself.
        what: the words that name it in errors.

    Raises:
        MalformedInput: not JSON, or not of the grammar; the message names the place.
    """
    raw = load_json(data, what=what, max_bytes=MAX_POLICY) if isinstance(data, bytes) else dict(data)
    obj = as_object(raw, what)
    _only(obj, {"version", "anyOf"}, what)
    version = as_text(obj.get("version"), f"{what}: version", max_length=16)
    if version not in VERSIONS:
        raise MalformedInput(f"{what}: version {version!r}, wanted one of {', '.join(VERSIONS)}")
    items = as_list(obj.get("anyOf"), f"{what}: anyOf", max_items=MAX_GROUP)
    if not items:
        raise MalformedInput(f"{what}: anyOf is empty, wanted at least one authority")
    return ReleasePolicy(
        version, tuple(_parse_authority(item, f"{what}: anyOf[{i}]") for i, item in enumerate(items))
    )


def build_policy(
    authorities: Sequence[str], clauses: Sequence[Sequence[tuple[str, Scalar]]], *, version: str = "1.0.0"
) -> ReleasePolicy:
    """Build a policy: each authority together with each clause, whose claims must all hold.

    Args:
        authorities: issuers, `https://host`.
        clauses: alternatives; each a list of (claim, value).

    Raises:
        MalformedInput: nothing to demand, or values the grammar does not have.
    """
    policy = ReleasePolicy(
        version,
        tuple(
            Authority(issuer, Group(GroupKind.ALL_OF, tuple(Condition(c, v) for c, v in clause)))
            for issuer in authorities
            for clause in clauses
        ),
    )
    return parse_policy(policy.to_dict())


def _parse_authority(value: object, what: str) -> Authority:
    obj = as_object(value, what)
    issuer = as_text(obj.get("authority"), f"{what}: authority", max_length=512)
    if not issuer.strip("/ "):
        raise MalformedInput(f"{what}: authority is empty, wanted the issuer of the tokens")
    rest = {name: item for name, item in obj.items() if name != "authority"}
    return Authority(issuer, _parse_group(rest, what, depth=0))


def _parse_group(obj: JsonObject, what: str, depth: int) -> Group:
    kinds = [kind for kind in GroupKind if kind.value in obj]
    if len(kinds) != 1:
        raise MalformedInput(f"{what}: holds {len(kinds)} of allOf and anyOf, wanted exactly one")
    if depth >= MAX_NESTING:
        raise MalformedInput(f"{what}: nested more than {MAX_NESTING} levels deep")
    kind = kinds[0]
    _only(obj, {kind.value}, what)
    place = f"{what}.{kind.value}"
    items = as_list(obj[kind.value], place, max_items=MAX_GROUP)
    if not items:
        raise MalformedInput(f"{place}: is empty, wanted at least one condition")
    return Group(kind, tuple(_parse_member(item, f"{place}[{i}]", depth) for i, item in enumerate(items)))


def _parse_member(value: object, what: str, depth: int) -> Condition | Group:
    obj = as_object(value, what)
    if "claim" not in obj:
        return _parse_group(obj, what, depth + 1)
    for operator in _OTHER_OPERATORS:
        if operator in obj:
            raise MalformedInput(
                f"{what}: operator {operator!r} is not evaluated by the services, wanted 'equals'"
            )
    _only(obj, {"claim", "equals"}, what)
    claim = as_text(obj["claim"], f"{what}: claim", max_length=MAX_CLAIM)
    if not all(claim.split(".")):
        raise MalformedInput(f"{what}: claim {claim!r} has an empty part")
    if "equals" not in obj:
        raise MalformedInput(f"{what}: claim {claim!r} has no 'equals'")
    wanted = obj["equals"]
    if not isinstance(wanted, str | int | float | bool):
        raise MalformedInput(f"{what}: claim {claim!r} equals neither a string, a number, true nor false")
    return Condition(claim, wanted)


def _only(obj: JsonObject, known: set[str], what: str) -> None:
    if unknown := sorted(obj.keys() - known):
        raise MalformedInput(f"{what}: unknown member {unknown[0][:64]!r}, wanted {', '.join(sorted(known))}")


def _dump(item: Condition | Group) -> JsonObject:
    if isinstance(item, Condition):
        return {"claim": item.claim, "equals": item.equals}
    return {item.kind.value: [_dump(m) for m in item.members]}


# -- evaluate --------------------------------------------------------------------------------------


class Absent:
    """The claim is not in the token: another thing than null."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = Absent()


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """A condition beside what the token said; `seen` is ABSENT where it said nothing."""

    claim: str
    wanted: Scalar
    seen: object
    ok: bool


@dataclass(frozen=True, slots=True)
class GroupResult:
    """A group and all its members' results: nothing is cut short, so that a reader sees every miss."""

    kind: GroupKind
    members: tuple[ConditionResult | GroupResult, ...]
    ok: bool


@dataclass(frozen=True, slots=True)
class AuthorityResult:
    """One authority entry: whether it is about this issuer, and how its rule came out."""

    authority: str
    matches: bool
    rule: GroupResult

    @property
    def granted(self) -> bool:
        """This entry alone releases the key."""
        return self.matches and self.rule.ok


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome for one token."""

    issuer: str
    authorities: tuple[AuthorityResult, ...]
    granted: bool = field(default=False)

    def failures(self) -> Iterator[tuple[AuthorityResult, ConditionResult]]:
        """Conditions that failed, of the authority entries about this issuer."""
        for authority in self.authorities:
            if authority.matches and not authority.rule.ok:
                yield from ((authority, leaf) for leaf in _failed(authority.rule))


def evaluate(policy: ReleasePolicy, claims: Mapping[str, object]) -> Evaluation:
    """Hold a policy against the claims of a token whose signature the caller has verified.

    Args:
        policy: the key's policy.
        claims: the token's payload; `iss` names the issuer.

    Returns:
        every authority and condition with what was seen; `granted` is the decision.
    """
    issuer = claims.get("iss")
    issuer = issuer if isinstance(issuer, str) else ""
    results = tuple(
        AuthorityResult(a.authority, same_authority(a.authority, issuer), _evaluate_group(a.rule, claims))
        for a in policy.authorities
    )
    return Evaluation(issuer, results, any(r.granted for r in results))


def same_authority(authority: str, issuer: str) -> bool:
    """Whether a policy's authority is a token's issuer; trailing slash and missing scheme do not count."""
    return bool(issuer) and _plain_url(authority) == _plain_url(issuer)


def find_claim(claims: Mapping[str, object], name: str) -> object:
    """The value at a dotted name, or ABSENT; arrays cannot be walked into."""
    value: object = claims
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return ABSENT
        value = value[part]
    return value


def loosely_equal(wanted: Scalar, seen: object) -> bool:
    """Compare as the services do: same kind by value, text with number or boolean by text, case counts.

    Spec: recorded answers of vault and managed HSM ("true" matched true); their test policies ("0" matches
    0).
    """
    if not isinstance(seen, str | int | float | bool):
        return False
    if isinstance(wanted, str) or isinstance(seen, str):
        return _text(wanted) == _text(seen)
    # In Python True == 1; in JSON true is no number.
    return isinstance(wanted, bool) == isinstance(seen, bool) and wanted == seen


def _text(value: Scalar) -> str:
    return value if isinstance(value, str) else dump_json(value).decode()


def _plain_url(text: str) -> str:
    text = text.rstrip("/")
    return text if "://" in text else f"https://{text}"


def _evaluate_group(group: Group, claims: Mapping[str, object]) -> GroupResult:
    members = tuple(
        _evaluate_group(m, claims) if isinstance(m, Group) else _evaluate_condition(m, claims)
        for m in group.members
    )
    verdict = all if group.kind is GroupKind.ALL_OF else any
    return GroupResult(group.kind, members, verdict(m.ok for m in members))


def _evaluate_condition(condition: Condition, claims: Mapping[str, object]) -> ConditionResult:
    seen = find_claim(claims, condition.claim)
    return ConditionResult(condition.claim, condition.equals, seen, loosely_equal(condition.equals, seen))


def _failed(group: GroupResult) -> Iterator[ConditionResult]:
    for item in group.members:
        if item.ok:
            continue
        if isinstance(item, GroupResult):
            yield from _failed(item)
        else:
            yield item
