"""What a registry says of how it wants to be asked: the WWW-Authenticate header.

Spec: RFC 9110 section 11; the distribution project's token authentication specification.

Kind: pure
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MAX_HEADER = 4096
_SCHEME = re.compile(r"\s*([A-Za-z]+)\s+")
_PARAMETER = re.compile(r'\s*([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|\Z)')


@dataclass(frozen=True, slots=True)
class Challenge:
    """`bearer` with the token service's address, or `basic`; empty for anything else."""

    scheme: str = ""
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge:
    """The first challenge of a header; an unknown or malformed one gives an empty Challenge."""
    header = header[:_MAX_HEADER]
    start = _SCHEME.match(header)
    if start is None:
        return Challenge()
    scheme = start[1].lower()
    if scheme == "basic":
        return Challenge("basic")
    if scheme != "bearer":
        return Challenge()
    found: dict[str, str] = {}
    place = start.end()
    while (parameter := _PARAMETER.match(header, place)) is not None:
        quoted = re.sub(r"\\(.)", r"\1", parameter[2] or "")
        found.setdefault(parameter[1].lower(), quoted or parameter[3] or "")
        place = parameter.end()
    return Challenge("bearer", found.get("realm", ""), found.get("service", ""), found.get("scope", ""))
