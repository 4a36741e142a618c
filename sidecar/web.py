"""HTTP requests and answers as values, and a router between them: no sockets, no server.

Strategy: a service is a function from `WebRequest` to `WebResponse`; `sidecar.asgi` puts it behind a
server, tests call it directly. Routes are matched on the path as sent, segment by segment, before any
percent decoding.

Rules: header names are lower case; a repeated query parameter is refused (two readers could take different
ones).

Kind: pure
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote

from sidecar.errors import MalformedInput
from sidecar.strictjson import dump_json

JSON_TYPE = "application/json; charset=utf-8"
MAX_QUERY_FIELDS = 32


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class WebRequest:
    """One request.

    Attributes:
        method: upper case.
        path: as sent, without the query.
        query: parameters, decoded.
        headers: lower-case names; of a repeated header the last value.
        body: may be secret, so it stays out of `repr`.
        parameters: what the route's placeholders matched, decoded.
        flags: marks that a fault script set for the handler.
        peer: who is asking; None over TCP.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    parameters: Mapping[str, str] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    peer: Peer | None = None


@dataclass(frozen=True, slots=True)
class WebResponse:
    """One answer.

    Attributes:
        status: HTTP status.
        body: may be secret, so it stays out of `repr`.
        headers: extra headers, lower-case names.
        content_type: empty for none.
        cut: when set, the connection ends after so many bytes of the body (a scripted fault).
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON_TYPE
    cut: int | None = None

    def with_headers(self, headers: Mapping[str, str]) -> WebResponse:
        """The same with more headers."""
        return replace(self, headers={**self.headers, **headers})


Handler = Callable[[WebRequest], Awaitable[WebResponse]]


def json_response(value: object, status: int = 200) -> WebResponse:
    """A JSON answer."""
    return WebResponse(status, dump_json(value))


def parse_query(text: str) -> dict[str, str]:
    """Query parameters; MalformedInput for a repeated one, too many, or bytes that are not UTF-8."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict")
    except ValueError:
        raise MalformedInput(f"query: not readable, or more than {MAX_QUERY_FIELDS} parameters") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedInput("query: a parameter appears twice")
    return found


@dataclass(frozen=True, slots=True)
class Route:
    """One route: `name` is what fault scripts and logs call it; `{x}` in the pattern matches one segment."""

    name: str
    method: str
    segments: tuple[str, ...]
    handler: Handler


@dataclass(slots=True)
class Router:
    """Routes in order; the first that fits wins."""

    routes: list[Route] = field(default_factory=list)

    def add(self, name: str, method: str, pattern: str, handler: Handler) -> None:
        """Add a route; a pattern `/a/{b}` has one placeholder."""
        self.routes.append(Route(name, method, tuple(pattern.split("/")[1:]), handler))

    def find(self, request: WebRequest) -> tuple[Route, WebRequest] | None:
        """The route of a request, with the request that carries what its placeholders matched."""
        segments = request.path.split("/")[1:]
        for route in self.routes:
            if route.method == request.method and (found := _match(route.segments, segments)) is not None:
                return route, replace(request, parameters=found)
        return None

    def methods(self, path: str) -> list[str]:
        """The methods that a path has routes for; empty for an unknown path."""
        segments = path.split("/")[1:]
        return sorted({r.method for r in self.routes if _match(r.segments, segments) is not None})


def _match(pattern: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    found: dict[str, str] = {}
    for wanted, seen in zip(pattern, segments, strict=True):
        if wanted.startswith("{"):
            found[wanted[1:-1]] = unquote(seen)
        elif wanted.lower() != seen.lower():
            return None
    return found
