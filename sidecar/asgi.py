"""From ASGI to values and back: puts a handler of `sidecar.web` behind any ASGI server.

Strategy: read the whole body under a byte limit and a deadline, call the handler, send the whole answer.
The protocols here have small bodies, so nothing streams.

Rules: a body above the limit gets 413 before it is held in memory; one that does not arrive in time gets
408; a handler that raises gets a bare 500, and the traceback goes to the log without the request's body.

Spec: ASGI 3.0, HTTP sub-specification 2.1.

Kind: adapter
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any, TypeAlias

import trio

from sidecar.errors import MalformedInput
from sidecar.serviceerror import ErrorBody, build_error_body
from sidecar.web import Handler, WebRequest, WebResponse, parse_query

log = logging.getLogger(__name__)

# The interface is untyped by its specification: the Any ends in this module.
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

PEER = "sidecar.peer"  # extension of the scope: the `Peer` of a Unix socket
MAX_BODY = 1 << 20  # bytes
BODY_DEADLINE = 10.0  # seconds


class _TooLarge(Exception):
    """The body passed the limit."""


class _Gone(Exception):
    """The client left before its request was complete."""


Refuse = Callable[[int, str, str], WebResponse]


def asgi_app(
    handler: Handler,
    *,
    max_body: int = MAX_BODY,
    deadline: float = BODY_DEADLINE,
    refuse: Refuse | None = None,
) -> AsgiApp:
    """An ASGI application around a handler.

    Args:
        handler: from request to answer.
        max_body: largest request body, bytes.
        deadline: seconds in which the body must have arrived.
        refuse: makes an error answer from status, code and message; the Azure services' shape when None.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"scope {scope['type']!r}")
        try:
            response = await _answer(handler, scope, receive, max_body, deadline, refuse or _envelope)
            await _send(response, send, head=scope["method"] == "HEAD")
        except _Gone:
            log.debug("%s: the client left early", scope["method"])

    return app


async def _answer(
    handler: Handler, scope: Scope, receive: Receive, max_body: int, deadline: float, refuse: Refuse
) -> WebResponse:
    def refusal(status: int, code: str, message: str) -> WebResponse:
        answer = refuse(status, code, message)
        # The rest of the request may still be on its way: the connection cannot be used again. HTTP/2 has
        # no such header.
        return answer if scope["http_version"] == "2" else answer.with_headers({"connection": "close"})

    try:
        with trio.fail_after(deadline):
            body = await _read_body(scope, receive, max_body)
        request = _request(scope, body)
    except _TooLarge:
        return refusal(413, "RequestBodyTooLarge", f"the request body is larger than {max_body} bytes")
    except trio.TooSlowError:
        return refusal(408, "RequestTimeout", f"the request body did not arrive within {deadline:g} s")
    except MalformedInput as exc:
        return refusal(400, "BadParameter", str(exc))
    try:
        return await handler(request)
    except Exception:
        log.exception("%s %s: failed", request.method, request.path)
        return refusal(500, "InternalError", "the service failed; its log has the cause")


def _envelope(status: int, code: str, message: str) -> WebResponse:
    return WebResponse(status, build_error_body(ErrorBody(code, message)))


async def _read_body(scope: Scope, receive: Receive, max_body: int) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > max_body:
            raise _TooLarge
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body += message.get("body", b"")
        if len(body) > max_body:
            raise _TooLarge
        if not message.get("more_body", False):
            return bytes(body)


def _request(scope: Scope, body: bytes) -> WebRequest:
    # hypercorn keeps the query in raw_path as well as apart.
    path = bytes(scope["raw_path"]).partition(b"?")[0]
    return WebRequest(
        method=str(scope["method"]).upper(),
        path=path.decode("latin-1"),
        query=parse_query(bytes(scope["query_string"]).decode("latin-1")),
        headers={n.decode("latin-1").lower(): v.decode("latin-1") for n, v in scope["headers"]},
        body=body,
        peer=scope.get("extensions", {}).get(PEER),
    )


async def _send(response: WebResponse, send: Send, *, head: bool) -> None:
    headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in response.headers.items()]
    if response.content_type and response.body:
        headers.append((b"content-type", response.content_type.encode("latin-1")))
    if "content-length" not in response.headers:  # an answer to HEAD may announce what it does not send
        headers.append((b"content-length", str(len(response.body)).encode("ascii")))
    if head:
        response = replace(response, body=b"")
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if response.cut is None:
            await send({"type": "http.response.body", "body": response.body})
        elif response.cut > 0:
            # Announced longer than sent, then the application ends: the server closes the connection.
            part = response.body[: response.cut]
            await send({"type": "http.response.body", "body": part, "more_body": True})
    except (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError):
        # hypercorn lets these through when the client closes while an answer is on its way.
        raise _Gone from None
