"""Scripted faults: which requests of the cloud in a box go wrong, and how.

Strategy: a rule names a service and a route and says what happens; rules are asked in order and the first
that is active applies. Counting is per rule, so a script is deterministic: the same requests meet the same
faults.

    SERVICE[/ROUTE]:ITEM[,ITEM...]      SERVICE is maa, akv, mhsm, imds, sts, kds, blob or * status=N
    answer this status (code=WORD and inner=WORD name the error, retry-after=SECONDS adds the header)
    delay=SECONDS   answer later              cut=BYTES    end the connection after so many bytes of the
    body expired         tokens made by this request have expired already times=N         only so often
    after=N      let so many requests pass first clock=SECONDS   the service's clock is off by so much (for
    as long as the script lives)

    akv/release:status=429,retry-after=2,times=3      maa/attest:cut=100      *:delay=0.2      maa:clock=-600

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sidecar.errors import UsageError

SERVICES = ("maa", "akv", "mhsm", "imds", "sts", "kds", "blob")
MAX_DELAY = 3600.0  # seconds
_DEFAULT_CODES = {
    400: "BadParameter",
    401: "Unauthorized",
    403: "Forbidden",
    404: "KeyNotFound",
    409: "Conflict",
    429: "Throttled",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request."""

    status: int = 0
    code: str = ""
    inner: str = ""
    retry_after: str = ""
    delay: float = 0.0
    cut: int | None = None
    flags: frozenset[str] = frozenset()

    @property
    def error_code(self) -> str:
        """The error's word: as given, or the usual one of the status."""
        return self.code or _DEFAULT_CODES.get(self.status, "InternalServerError")


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One parsed rule; `*` for any service or route, `times` None for always."""

    service: str
    route: str
    fault: Fault
    times: int | None = None
    after: int = 0
    clock: float = 0.0

    def fits(self, service: str, route: str) -> bool:
        """Whether the rule is about this request."""
        return self.service in ("*", service) and self.route in ("*", route)


def parse_fault(text: str) -> FaultRule:
    """Read one rule.

    Raises:
        UsageError: not of the form above; the message names the part.
    """
    place, colon, items = text.partition(":")
    service, _, route = place.partition("/")
    if not colon or not items:
        raise UsageError(f"fault {text!r}: wanted SERVICE[/ROUTE]:ITEM[,ITEM...]", hint=_HINT)
    if service not in (*SERVICES, "*"):
        raise UsageError(f"fault {text!r}: service {service!r}, wanted one of {', '.join(SERVICES)} or *")
    values = _items(text, items)
    fault = Fault(
        status=_number(text, values, "status", 0, 400, 599),
        code=values.pop("code", ""),
        inner=values.pop("inner", ""),
        retry_after=values.pop("retry-after", ""),
        delay=_seconds(text, values, "delay", 0.0, MAX_DELAY),
        cut=_number(text, values, "cut", 0, 0, 1 << 20) if "cut" in values else None,
        flags=frozenset({"expired"} if values.pop("expired", None) is not None else ()),
    )
    rule = FaultRule(
        service,
        route or "*",
        fault,
        times=_number(text, values, "times", 0, 1, 1 << 30) or None,
        after=_number(text, values, "after", 0, 0, 1 << 30),
        clock=_seconds(text, values, "clock", -(10.0**9), 10.0**9),
    )
    if values:
        raise UsageError(f"fault {text!r}: unknown item {min(values)!r}", hint=_HINT)
    return rule


@dataclass(slots=True)
class FaultScript:
    """Rules with their counts: the one mutable thing here."""

    rules: tuple[FaultRule, ...] = ()
    _seen: dict[int, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> FaultScript:
        """A script from its rules' texts; UsageError as `parse_fault`."""
        return cls(tuple(parse_fault(text) for text in texts))

    def next(self, service: str, route: str) -> Fault | None:
        """Count a request and say what happens to it; None for nothing."""
        chosen: Fault | None = None
        for index, rule in enumerate(self.rules):
            if rule.clock or not rule.fits(service, route):
                continue
            seen = self._seen[index] = self._seen.get(index, 0) + 1
            active = seen > rule.after and (rule.times is None or seen <= rule.after + rule.times)
            if active and chosen is None:
                chosen = rule.fault
        return chosen

    def clock_shift(self, service: str) -> float:
        """Seconds by which a service's clock is off."""
        return sum(rule.clock for rule in self.rules if rule.clock and rule.service in ("*", service))


_HINT = "for example akv/release:status=429,retry-after=2,times=3"


def _items(text: str, items: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in items.split(","):
        name, _, value = item.partition("=")
        if name in found:
            raise UsageError(f"fault {text!r}: item {name!r} appears twice")
        found[name] = value
    return found


def _number(text: str, values: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    value = values.pop(name, None)
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
        raise UsageError(f"fault {text!r}: {name} is {value!r}, wanted a number from {low} to {high}")
    return int(value)


def _seconds(text: str, values: dict[str, str], name: str, low: float, high: float) -> float:
    value = values.pop(name, None)
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        seconds = float("nan")
    if not low <= seconds <= high:
        raise UsageError(f"fault {text!r}: {name} is {value!r}, wanted seconds from {low:g} to {high:g}")
    return seconds
