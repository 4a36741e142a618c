"""Attestation policies: a useful subset of the attestation authority's own policy language.

    version= 1.0;
    authorizationrules
    {
        [type=="x-ms-sevsnpvm-is-debuggable", value==false] && [type=="x-ms-sevsnpvm-vmpl", value==0] =>
        permit();
    };
    issuancerules
    {
        c:[type=="x-ms-sevsnpvm-hostdata"] => issue(type="workload", value=c.value);
    };

Strategy: tokens, then a recursive descent into frozen values, then an evaluation that keeps a claim set and
adds to it.

Rules: what the subset does not have (configuration rules, functions, signed policies, versions after 1.1)
is refused when the policy is set, never passed over. A deny anywhere wins; without a permit nothing is
permitted. Policies cannot issue claims under the service's own names.

Spec: Azure Attestation, policy version 1.0 and 1.1, claim and claim rules (grammar, operators, actions).

Kind: pure
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from sidecar.errors import MalformedInput

Value = str | int | bool

VERSIONS = ("1.0", "1.1")
MAX_POLICY = 64 << 10  # characters
MAX_RULES = 256
SERVICE, POLICY = "AttestationService", "AttestationPolicy"
RESERVED = frozenset({"iss", "exp", "iat", "nbf", "jti", "nonce", "aud", "sub"})
_TOKEN = re.compile(
    r'\s*(?:(?P<text>"[^"\\\n]*")|(?P<number>-?[0-9]+(?:\.[0-9]+)?)|(?P<word>[A-Za-z_][A-Za-z0-9_-]*)'
    r"|(?P<mark>=>|&&|==|!=|<=|>=|[<>=\[\]{}(),;:.]))",
    re.ASCII,
)
_ORDER: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PROPERTIES = ("type", "value", "valueType", "issuer")
_ACTIONS = {
    "authorizationrules": ("permit", "deny", "add"),
    "issuancerules": ("issue", "add"),
}


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim while a policy is evaluated."""

    type: str
    value: Value
    issuer: str

    def property(self, name: str) -> Value:
        """One of the four properties of a claim."""
        if name == "valueType":
            return (
                "Boolean"
                if isinstance(self.value, bool)
                else "Integer"
                if isinstance(self.value, int)
                else "String"
            )
        return {"type": self.type, "issuer": self.issuer, "value": self.value}[name]


@dataclass(frozen=True, slots=True)
class Reference:
    """`c.value`: a property of the claim that a condition of the same rule has found."""

    identifier: str
    property: str


@dataclass(frozen=True, slots=True)
class Test:
    """One property condition: name, comparison, value."""

    property: str
    comparison: str
    wanted: Value | Reference


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter over the claims; true when a claim passes all its tests."""

    identifier: str
    tests: tuple[Test, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Conditions and what to do when all of them are true; `claim` names a claim to pass on whole."""

    conditions: tuple[Condition, ...]
    action: str
    type: str | Reference = ""
    value: Value | Reference = ""
    claim: str = ""


@dataclass(frozen=True, slots=True)
class AttestationPolicy:
    """A parsed policy with its text."""

    text: str
    version: str
    authorization: tuple[Rule, ...]
    issuance: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether evidence may have a token, why not, and what claims the policy adds to it."""

    permitted: bool
    reason: str = ""
    issued: Mapping[str, object] = field(default_factory=dict)


# -- parse ----------------------------------------------------------------------------------------


def parse_policy(text: str) -> AttestationPolicy:
    """Read a policy; MalformedInput names the place and what was wanted."""
    if len(text) > MAX_POLICY:
        raise MalformedInput(f"attestation policy: {len(text)} characters, at most {MAX_POLICY} are accepted")
    return _Parser(text).policy()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0

    def policy(self) -> AttestationPolicy:
        self._expect("version")
        self._expect("=")
        version = self._take("number")
        self._expect(";")
        if version not in VERSIONS:
            raise MalformedInput(f"attestation policy: version {version}, wanted {' or '.join(VERSIONS)}")
        sections: dict[str, tuple[Rule, ...]] = {}
        while self._at < len(self._tokens):
            name = self._take("word")
            if name not in _ACTIONS:
                raise MalformedInput(f"attestation policy: section {name!r} is not supported here")
            if name in sections:
                raise MalformedInput(f"attestation policy: section {name!r} appears twice")
            sections[name] = self._section(name)
        if "authorizationrules" not in sections:
            raise MalformedInput("attestation policy: no authorizationrules, wanted at least one permit")
        return AttestationPolicy(
            self._text, version, sections["authorizationrules"], sections.get("issuancerules", ())
        )

    def _section(self, name: str) -> tuple[Rule, ...]:
        self._expect("{")
        rules: list[Rule] = []
        while not self._accept("}"):
            rules.append(self._rule(name))
            if len(rules) > MAX_RULES:
                raise MalformedInput(f"attestation policy: more than {MAX_RULES} rules in {name}")
        self._expect(";")
        return tuple(rules)

    def _rule(self, section: str) -> Rule:
        conditions: list[Condition] = []
        if not self._accept("=>"):
            conditions.append(self._condition(conditions))
            while self._accept("&&"):
                conditions.append(self._condition(conditions))
            self._expect("=>")
        action = self._take("word")
        if action not in _ACTIONS[section]:
            wanted = ", ".join(_ACTIONS[section])
            raise MalformedInput(
                f"attestation policy: action {action!r} in {section}, wanted one of {wanted}"
            )
        self._expect("(")
        known = {c.identifier for c in conditions if c.identifier}
        rule = Rule(tuple(conditions), action, **self._arguments(action, known))  # type: ignore[arg-type]
        self._expect(")")
        self._expect(";")
        return rule

    def _condition(self, before: Sequence[Condition]) -> Condition:
        known = {c.identifier for c in before if c.identifier}
        identifier = ""
        if not self._peek("["):
            identifier = self._take("word")
            self._expect(":")
        self._expect("[")
        tests = [self._test(known)]
        while self._accept(","):
            tests.append(self._test(known))
        self._expect("]")
        return Condition(identifier, tuple(tests))

    def _test(self, known: set[str]) -> Test:
        name = self._take("word")
        if name not in _PROPERTIES:
            raise MalformedInput(
                f"attestation policy: property {name!r}, wanted one of {', '.join(_PROPERTIES)}"
            )
        comparison = self._take("mark")
        if comparison not in ("==", "!=", *_ORDER):
            raise MalformedInput(f"attestation policy: comparison {comparison!r} after {name!r}")
        return Test(name, comparison, self._value(known))

    def _arguments(self, action: str, known: set[str]) -> dict[str, Value | Reference]:
        if action in ("permit", "deny"):
            return {}
        found: dict[str, Value | Reference] = {}
        while not self._peek(")"):
            if found:
                self._expect(",")
            name = self._take("word")
            self._expect("=")
            if name == "claim":
                found[name] = self._known(self._take("word"), known)
            elif name in ("type", "value"):
                found[name] = self._value(known)
            else:
                raise MalformedInput(
                    f"attestation policy: argument {name!r}, wanted type and value, or claim"
                )
        if set(found) not in ({"claim"}, {"type", "value"}):
            raise MalformedInput(f"attestation policy: {action} wants type and value, or claim")
        _check_issued(action, found.get("type", ""))
        return found

    def _value(self, known: set[str]) -> Value | Reference:
        kind, text = self._next()
        if kind == "text":
            return text[1:-1]
        if kind == "number" and "." not in text:
            return int(text)
        if text in ("true", "false"):
            return text == "true"
        if kind != "word":
            self._wrong("a string, an integer, true, false or a reference")
        self._expect(".")
        name = self._take("word")
        if name not in _PROPERTIES:
            raise MalformedInput(f"attestation policy: {text}.{name}, wanted {text}.value")
        return Reference(self._known(text, known), name)

    def _known(self, identifier: str, known: set[str]) -> str:
        if identifier not in known:
            raise MalformedInput(f"attestation policy: {identifier!r} names no condition before it")
        return identifier

    # -- tokens ---------------------------------------------------------------------------------

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise MalformedInput("attestation policy: ends in the middle of a rule")
        self._at += 1
        return self._tokens[self._at - 1][:2]

    def _peek(self, text: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at][1] == text

    def _accept(self, text: str) -> bool:
        found = self._peek(text)
        self._at += found
        return found

    def _expect(self, text: str) -> None:
        if self._next()[1] != text:
            self._wrong(repr(text))

    def _take(self, kind: str) -> str:
        seen, text = self._next()
        if seen != kind:
            self._wrong(f"a {kind}")
        return text

    def _wrong(self, wanted: str) -> NoReturn:
        _, text, place = self._tokens[self._at - 1]
        line = self._text.count("\n", 0, place) + 1
        raise MalformedInput(f"attestation policy: line {line}: {text[:40]!r}, wanted {wanted}")


def _tokens(text: str) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            rest = text[at:].lstrip()
            line = text.count("\n", 0, len(text) - len(rest)) + 1
            raise MalformedInput(f"attestation policy: line {line}: {rest[:20]!r} cannot be read")
        found.append((match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        at = match.end()
    return found


def _check_issued(action: str, name: Value | Reference) -> None:
    if action != "issue" or isinstance(name, Reference):
        return
    if str(name).startswith("x-ms-") or name in RESERVED:
        raise MalformedInput(
            f"attestation policy: claim {name!r} belongs to the service and cannot be issued"
        )


# -- evaluate -------------------------------------------------------------------------------------


def evaluate(policy: AttestationPolicy, claims: Mapping[str, object]) -> Outcome:
    """Hold a policy against the claims of verified evidence; only scalar claims take part."""
    known = [Claim(n, v, SERVICE) for n, v in claims.items() if isinstance(v, str | int | bool)]
    verdicts: set[str] = set()
    for rule in policy.authorization:
        found = _matches(rule, known)
        if found is None:
            continue
        if rule.action == "add":
            known.append(_made(rule, found))
        else:
            verdicts.add(rule.action)
    if "deny" in verdicts:
        return Outcome(False, "A Deny claim was issued, authorization failed")
    if "permit" not in verdicts:
        return Outcome(False, "No Permit claim was issued, authorization failed")
    return Outcome(True, issued=_issue(policy.issuance, known))


def _issue(rules: Sequence[Rule], known: list[Claim]) -> dict[str, object]:
    issued: dict[str, list[Value]] = {}
    for rule in rules:
        found = _matches(rule, known)
        if found is None:
            continue
        claim = _made(rule, found)
        known.append(claim)
        # A claim passed on under the service's own name is in the token already.
        if rule.action == "issue" and not claim.type.startswith("x-ms-") and claim.type not in RESERVED:
            values = issued.setdefault(claim.type, [])
            if claim.value not in values:
                values.append(claim.value)
    return {name: values[0] if len(values) == 1 else list(values) for name, values in issued.items()}


def _matches(rule: Rule, known: Sequence[Claim]) -> dict[str, Claim] | None:
    """The claims that the rule's conditions found, by identifier; None when one found nothing."""
    found: dict[str, Claim] = {}
    for condition in rule.conditions:
        claim = next((c for c in known if all(_passes(t, c, found) for t in condition.tests)), None)
        if claim is None:
            return None
        if condition.identifier:
            found[condition.identifier] = claim
    return found


def _passes(test: Test, claim: Claim, found: Mapping[str, Claim]) -> bool:
    seen, wanted = claim.property(test.property), _resolve(test.wanted, found)
    if isinstance(seen, bool) != isinstance(wanted, bool) or isinstance(seen, str) != isinstance(wanted, str):
        return False
    if test.comparison in ("==", "!="):
        return (seen == wanted) == (test.comparison == "==")
    if isinstance(seen, str | bool) or isinstance(wanted, str | bool):
        return False
    return _ORDER[test.comparison](seen, wanted)


def _made(rule: Rule, found: Mapping[str, Claim]) -> Claim:
    if rule.claim:
        return found[rule.claim]
    return Claim(str(_resolve(rule.type, found)), _resolve(rule.value, found), POLICY)


def _resolve(value: Value | Reference, found: Mapping[str, Claim]) -> Value:
    return found[value.identifier].property(value.property) if isinstance(value, Reference) else value
