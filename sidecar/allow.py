"""Which keys may be released, from where, and to whom: what a security policy should measure.

    {"vaults": ["v.vault.azure.net"], "authorities": ["a.attest.azure.net"],
     "keys": ["name", "name/version", "https://v.vault.azure.net/keys/name"],
     "callers": [{"uid": 1000}, {"gid": 2000}]}

Strategy: each list that is there must be met; each that is absent allows what the host rules allow anyway.

Rules: an unknown member is an error, because a misspelt restriction would not restrict. An empty list allows
nothing. Callers are known by SO_PEERCRED, which only the Unix socket has: with `callers` set, nothing is
attested or released over TCP. With `keys` or `callers` set, no report is made over a wrapping key of a
caller's own: with such a token and an access token it could have any key of this guest from the vault itself.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sidecar.akv import KeyRef, parse_key_ref, parse_kid
from sidecar.errors import KeyNotAllowed, MalformedInput
from sidecar.hosts import Host, parse_host
from sidecar.strictjson import as_int, as_list, as_object, as_text, load_object
from sidecar.web import Peer

_MEMBERS = ("vaults", "authorities", "keys", "callers")
_HTTPS = 443
# A key that a vault wraps to is RSA of 2048 bits or more: 342 characters of modulus alone.
_TOO_SHORT_FOR_A_KEY = 256
_MAX_ID = (1 << 32) - 2  # the last value of a user id means "none"
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Caller:
    """A process by user, by group, or by both."""

    uid: int | None = None
    gid: int | None = None

    def is_met_by(self, peer: Peer) -> bool:
        """Whether this process is meant."""
        return self.uid in (None, peer.uid) and self.gid in (None, peer.gid)

    def __str__(self) -> str:
        parts = (("uid", self.uid), ("gid", self.gid))
        return " ".join(f"{name} {value}" for name, value in parts if value is not None)


@dataclass(frozen=True, slots=True)
class KeyRule:
    """A key, of any vault when `host` is empty; without a version all of its versions."""

    ref: KeyRef
    host: str = ""

    def is_met_by(self, host: str, asked: KeyRef) -> bool:
        """Whether a request for `asked` at `host` is meant."""
        return self.host in ("", host) and self.ref.is_met_by(asked)

    def __str__(self) -> str:
        return f"https://{self.host}{self.ref.path}" if self.host else str(self.ref)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The lists; None where the settings have none."""

    vaults: frozenset[str] | None = None
    authorities: frozenset[str] | None = None
    keys: tuple[KeyRule, ...] | None = None
    callers: tuple[Caller, ...] | None = None

    def check_key(self, host: Host, asked: KeyRef) -> None:
        """Refuse a key that is on no rule.

        Raises:
            KeyNotAllowed: with the rules there are.
        """
        if self.keys is None or any(rule.is_met_by(host.name, asked) for rule in self.keys):
            return
        rules = ", ".join(map(str, self.keys)) or "none"
        raise KeyNotAllowed(
            f"key {asked} of {host.name}: not allowed by the settings, wanted one of {rules}",
            hint="the list is allow.keys of the settings; a rule with a version wants to be asked with it",
        )

    def check_caller(self, peer: Peer | None) -> None:
        """Refuse a caller that is not listed, or that cannot be known.

        Raises:
            KeyNotAllowed: nothing is released to it.
        """
        if self.callers is None:
            return
        if peer is None:
            raise KeyNotAllowed(
                "caller over TCP: not allowed by the settings, wanted one that the Unix socket identifies",
                hint="allow.callers is set: serve on a socket (--socket) and connect there",
            )
        if not any(caller.is_met_by(peer) for caller in self.callers):
            raise KeyNotAllowed(
                f"caller uid {peer.uid} gid {peer.gid}: not allowed by the settings, "
                f"wanted {' or '.join(map(str, self.callers)) or 'none'}",
                hint="the list is allow.callers of the settings",
            )

    def check_runtime_data(self, data: bytes) -> None:
        """Refuse runtime data that could hold a wrapping key, where keys or callers are restricted.

        Args:
            data: what a report is to commit to, of a caller.

        Raises:
            KeyNotAllowed: it has the member `keys`, or is too long to be told and no strict JSON object.
        """
        if (self.keys is None and self.callers is None) or len(data) <= _TOO_SHORT_FOR_A_KEY:
            return
        try:
            if "keys" not in load_object(data, what="runtime_data", max_bytes=len(data)):
                return
        except MalformedInput:
            pass  # a laxer parser than ours may find a key in it
        raise KeyNotAllowed(
            "runtime_data: may hold a wrapping key, which the settings leave to the sidecar; wanted up to "
            f"{_TOO_SHORT_FOR_A_KEY} bytes, or a JSON object without the member 'keys'",
            hint="allow.keys or allow.callers is set: ask /key/release for the key itself",
        )


ANYTHING = Allowed()


def parse_allowed(value: object, what: str = "settings: allow") -> Allowed:
    """Read the object.

    Raises:
        MalformedInput: unknown members, or items of another form.
    """
    obj = as_object(value, what)
    if unknown := sorted(obj.keys() - set(_MEMBERS)):
        raise MalformedInput(f"{what}: unknown member {unknown[0][:64]!r}, wanted {', '.join(_MEMBERS)}")

    def items(name: str, parse: Callable[[object, str], Item]) -> tuple[Item, ...] | None:
        place = f"{what}: {name}"
        return tuple(parse(v, place) for v in as_list(obj[name], place)) if name in obj else None

    vaults, authorities = items("vaults", _host), items("authorities", _host)
    return Allowed(
        None if vaults is None else frozenset(vaults),
        None if authorities is None else frozenset(authorities),
        items("keys", _key),
        items("callers", _caller),
    )


def _host(value: object, what: str) -> str:
    return parse_host(as_text(value, what, max_length=300))


def _key(value: object, what: str) -> KeyRule:
    text = as_text(value, what, max_length=600)
    if not text.startswith("https://"):
        return KeyRule(parse_key_ref(text))
    host, ref = parse_kid(text)
    name, _, port = host.rpartition(":")
    return KeyRule(ref, parse_host(name if int(port) == _HTTPS else host))


def _caller(value: object, what: str) -> Caller:
    obj = as_object(value, what)
    if not obj or obj.keys() - {"uid", "gid"}:
        raise MalformedInput(f"{what}: wanted an object with uid, gid or both")
    found = {name: as_int(number, f"{what}: {name}") for name, number in obj.items()}
    for name, number in found.items():
        if not 0 <= number <= _MAX_ID:
            raise MalformedInput(f"{what}: {name} is {number}, wanted 0 to {_MAX_ID}")
    return Caller(**found)
