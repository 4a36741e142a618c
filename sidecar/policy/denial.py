"""Why a container did not start: the policy decision inside the service's message, in words.

The service's event holds `policyDecision< BASE64 >policyDecision`; the base64 is JSON:

    {"decision": "deny", "input": {"rule": "create_container", "argList": [...], ...},
     "reason": {"errors": [...], "error_objects": [the container entries that came closest]},
     "truncated": ["reason.error_objects", "input"]}

A long one loses its error objects, then its input, then its reason. Values of environment variables are
taken out before it leaves the guest.

Strategy: find it, decode it, say for every error what it means and what was asked for, and, when the policy
is at hand or an entry came along, what would have been admitted.

Rules: the text comes from the host, so it proves nothing; it is bounded, decoded strictly and shown
escaped. What the decision says that is not known here is shown as it is, never left out.

Spec: hcsshim, pkg/securitypolicy/securitypolicyenforcer_rego.go (denyWithReason, policyDecisionToError).

Kind: pure
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.denial_words import Meaning, action_of, meaning_of
from sidecar.policy.inspect_text import Paint, command_line, shown
from sidecar.policy.parse_model import Container
from sidecar.strictjson import as_object, load_json

MAX_SIZE = 4 << 20
_WHAT = "policy decision"
_MARKED = re.compile(rb"policyDecision\s*<(?P<value>[^<>]*)>\s*policyDecision")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_HINT = "paste the event's whole text, or the base64 between the two policyDecision marks"
_MAX_ERRORS = 64


@dataclass(frozen=True, slots=True)
class Reason:
    """One error as the framework words it, and its meaning; None when it is not known here."""

    text: str
    meaning: Meaning | None


@dataclass(frozen=True, slots=True)
class Denial:
    """A decision.

    Attributes:
        decision: the enforcer's word, usually deny.
        rule: the enforcement point that was asked, "" when the decision does not say.
        truncated: parts that were cut away.
        request: what was asked for, as JSON members; empty when it was cut away.
        closest: container entries of the policy that came along, as JSON members.
    """

    decision: str
    rule: str
    reasons: tuple[Reason, ...]
    truncated: tuple[str, ...]
    request: Mapping[str, object]
    closest: tuple[Mapping[str, object], ...]

    def to_json(self) -> dict[str, object]:
        return {
            "decision": self.decision,
            "rule": self.rule or None,
            "reasons": [
                {
                    "error": reason.text,
                    "words": reason.meaning.words if reason.meaning else None,
                    "cure": reason.meaning.cure if reason.meaning else None,
                }
                for reason in self.reasons
            ],
            "truncated": list(self.truncated),
            "request": dict(self.request),
            "closest": [dict(entry) for entry in self.closest],
        }


def parse_denial(data: bytes) -> Denial:
    """Find and read the decision in an event's text; the bare base64 or JSON will do as well.

    Args:
        data: at most 4 MiB, from the untrusted host.

    Raises:
        MalformedInput: no decision is in it, or it does not parse.
    """
    if len(data) > MAX_SIZE:
        raise MalformedInput(f"{_WHAT}: {len(data)} bytes, at most {MAX_SIZE} are read")
    document = as_object(load_json(_document(data), what=_WHAT, max_bytes=MAX_SIZE), _WHAT)
    reason, request = document.get("reason"), document.get("input")
    members = reason if isinstance(reason, dict) else {}
    request = request if isinstance(request, dict) else {}
    errors = _texts(members.get("errors") if isinstance(reason, dict) else reason)
    errors += _texts(document.get("policyError"))
    if "decision" not in document and not errors:
        raise MalformedInput(f"{_WHAT}: JSON with neither a decision nor a reason", hint=_HINT)
    rule = request.get("rule")
    objects = members.get("error_objects")
    return Denial(
        decision=str(document.get("decision", "deny"))[:80],
        rule=rule[:80] if isinstance(rule, str) else "",
        reasons=tuple(Reason(error, meaning_of(error)) for error in errors),
        truncated=_texts(document.get("truncated")),
        request=request,
        closest=tuple(entry for entry in objects if isinstance(entry, dict))
        if isinstance(objects, list)
        else (),
    )


def describe_denial(
    denial: Denial, paint: Paint | None = None, *, containers: Sequence[Container] = ()
) -> str:
    """The decision in lines for a terminal.

    Args:
        containers: of the policy that refused, when it is at hand.
    """
    paint = paint or Paint()
    asked = f" to {shown(action_of(denial.rule))}" if denial.rule else ""
    lines = [f"{paint.bad(shown(denial.decision))}: the policy refused{asked}"]
    admitted: list[Mapping[str, object]] = [container.to_json() for container in containers]
    admitted = admitted or list(denial.closest)
    for reason in denial.reasons:
        lines.append(f"  {paint.head(shown(reason.text))}")
        if reason.meaning is None:
            lines.append("    not known here: the policy's own words")
            continue
        lines.append(f"    {reason.meaning.words}")
        lines += _compared(reason.meaning.about, denial.request, admitted)
        if reason.meaning.cure:
            lines.append(f"    {paint.good('cure')}: {reason.meaning.cure}")
    if not denial.reasons:
        lines.append("  no reason came along")
    if denial.truncated:
        lines.append(f"  cut away to fit the message: {', '.join(map(shown, denial.truncated))}")
    return "\n".join(lines)


# What the request calls a thing -> what a container's entry calls it.
_ENTRY_MEMBERS = {
    "argList": "command",
    "workingDir": "working_dir",
    "user": "user",
    "capabilities": "capabilities",
}
_MAX_ADMITTED = 5


def _compared(
    about: str, request: Mapping[str, object], admitted: Sequence[Mapping[str, object]]
) -> Iterator[str]:
    """What was asked for beside what would have been admitted, where both can be told."""
    if about == "envList":
        yield from _missing_variables(request.get(about), admitted)
        return
    if about in request:
        yield f"    asked for: {_value(request[about])}"
    member = _ENTRY_MEMBERS.get(about)
    if member:
        wanted = dict.fromkeys(_value(entry[member]) for entry in admitted if member in entry)
        for value in list(wanted)[:_MAX_ADMITTED]:
            yield f"    admitted:  {value}"


def _missing_variables(given: object, admitted: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Required rules whose variable was not set; the values are not in the decision."""
    names = {text.partition("=")[0] for text in _texts(given)} if isinstance(given, list) else None
    for entry in admitted:
        rules = entry.get("env_rules")
        for rule in rules if isinstance(rules, list) else []:
            if isinstance(rule, dict) and rule.get("required") is True:
                pattern = str(rule.get("pattern"))
                if names is None or pattern.partition("=")[0] not in names:
                    yield f"    required:  {shown(pattern)}"


def _value(value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return command_line(value)
    return shown(value if isinstance(value, str) else json.dumps(value))


def _document(data: bytes) -> bytes:
    """The JSON inside: between the marks, or the whole of it; in base64, or bare."""
    marked = _MARKED.search(data)
    text = (marked["value"] if marked else data).strip().strip(b"\"'")
    if text.startswith(b"{"):
        return text
    if not text or not _BASE64.fullmatch(text):
        raise MalformedInput(f"{_WHAT}: none found in {len(data)} bytes", hint=_HINT)
    joined = b"".join(text.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        decoded = base64.b64decode(joined + b"=" * (-len(joined) % 4), validate=True)
    except ValueError:
        raise MalformedInput(f"{_WHAT}: base64 that does not decode, perhaps cut", hint=_HINT) from None
    if not decoded.lstrip().startswith(b"{"):
        raise MalformedInput(f"{_WHAT}: neither JSON nor the base64 of it", hint=_HINT)
    return decoded


def _texts(value: object) -> tuple[str, ...]:
    """The texts of a list, or the one text; what is none becomes its JSON, so that nothing is lost."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(item if isinstance(item, str) else json.dumps(item) for item in items[:_MAX_ERRORS])
