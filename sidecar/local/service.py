"""What every service of the cloud in a box does around its handlers: routes, faults, refusals, a log line.

Strategy: a `Service` is a `sidecar.web` handler. It finds the route, lets the fault script have its say,
calls the route's handler and turns a `Refusal` into the service's own error body by the `render` function
it was given.

Rules: the log line has service, route, status and the error's code; no header, no body, no token.

Kind: adapter
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import trio

from sidecar.errors import MalformedInput
from sidecar.local.faults import Fault, FaultScript
from sidecar.local.refusal import Refusal
from sidecar.serviceerror import build_error_body
from sidecar.web import Route, Router, WebRequest, WebResponse

log = logging.getLogger("sidecar.local")

Clock = Callable[[], datetime]
Render = Callable[[Refusal], WebResponse]


def utc_now() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)


def shifted(clock: Clock, faults: FaultScript, service: str) -> Clock:
    """A service's clock: the true one plus what the fault script says."""
    return lambda: clock() + timedelta(seconds=faults.clock_shift(service))


def render_envelope(refusal: Refusal) -> WebResponse:
    """The error body that authority and vaults share."""
    return WebResponse(refusal.status, build_error_body(refusal.body), refusal.headers)


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    Attributes:
        name: as fault scripts call it.
        router: its routes.
        faults: the script it obeys.
        render: from refusal to error body.
        unreadable: the error code of a request that does not parse.
    """

    name: str
    router: Router
    faults: FaultScript
    render: Render = render_envelope
    unreadable: str = "BadParameter"

    async def __call__(self, request: WebRequest) -> WebResponse:
        """Answer one request."""
        request = _overridden(request)
        found = self.router.find(request)
        if found is None:
            return self._log("-", self.render(self._unknown(request)), "")
        route, request = found
        fault = self.faults.next(self.name, route.name)
        response, code = await self._answer(route, request, fault)
        if fault is not None and fault.cut is not None:
            response = replace(response, cut=min(fault.cut, len(response.body)))
        return self._log(route.name, response, code)

    async def _answer(
        self, route: Route, request: WebRequest, fault: Fault | None
    ) -> tuple[WebResponse, str]:
        try:
            if fault is not None:
                await trio.sleep(fault.delay)
                _raise_scripted(fault)
                request = replace(request, flags=fault.flags)
            return await route.handler(request), ""
        except Refusal as refusal:
            return self.render(refusal), refusal.inner or refusal.code
        except MalformedInput as exc:
            return self.render(Refusal(400, self.unreadable, str(exc))), self.unreadable

    def _unknown(self, request: WebRequest) -> Refusal:
        methods = self.router.methods(request.path)
        if methods:
            allow = {"allow": ", ".join(methods)}
            return Refusal(405, "MethodNotAllowed", f"{request.method} is not allowed here", headers=allow)
        return Refusal(404, "NotFound", "no such address in this local service")

    def _log(self, route: str, response: WebResponse, code: str) -> WebResponse:
        log.info("%s %s: %d %s", self.name, route, response.status, code)
        return response


def _raise_scripted(fault: Fault) -> None:
    if fault.status:
        headers = {"retry-after": fault.retry_after} if fault.retry_after else {}
        message = f"this error was asked for by a fault script ({fault.status})"
        raise Refusal(fault.status, fault.error_code, message, inner=fault.inner, headers=headers)


def _overridden(request: WebRequest) -> WebRequest:
    """Clients that cannot send PUT, PATCH or DELETE may name the method in a header of a POST."""
    wanted = request.headers.get("x-http-method", "").upper()
    if request.method == "POST" and wanted in ("PUT", "PATCH", "DELETE"):
        return replace(request, method=wanted)
    return request
