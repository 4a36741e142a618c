"""The agent's HTTP interface on localhost: health, readiness, metrics, volumes, and `sync`.

    GET  /healthz           200, or 503 when a volume has been down for too long: restart the container
    GET  /readyz            200 when every volume is mounted, else 503 and which are not
    GET  /metrics           Prometheus
    GET  /volumes           every volume, with what is not stored yet
    GET  /volumes/N         one
    POST /volumes/N/sync    store everything written so far; the answer is the receipt

Rules: nothing secret is answered; no handler touches a mounted file system but `sync`, and that with a
deadline, so a stuck volume never makes the probes hang.

Kind: composition
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict

import trio

from encfs.agent import Agent
from encfs.agentmetrics import CONTENT_TYPE, Snapshot, metrics_text
from encfs.agentvolume import AgentVolume, State
from encfs.azure import Router, WebRequest, WebResponse, json_response
from encfs.errors import EncfsError
from encfs.health import LEASES, Reading

log = logging.getLogger(__name__)

SYNC_SECONDS = 60.0
_BEAT_SECONDS = 2.0


class AgentApi:
    """Handlers of one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._router = Router()
        self._router.add("health", "GET", "/healthz", self._health)
        self._router.add("ready", "GET", "/readyz", self._ready)
        self._router.add("metrics", "GET", "/metrics", self._metrics)
        self._router.add("volumes", "GET", "/volumes", self._volumes)
        self._router.add("volume", "GET", "/volumes/{index}", self._volume)
        self._router.add("sync", "POST", "/volumes/{index}/sync", self._sync)

    async def __call__(self, request: WebRequest) -> WebResponse:
        """Answer one request."""
        found = self._router.find(request)
        if found is None:
            methods = self._router.methods(request.path)
            if not methods:
                return _refusal(404, "no such path")
            return _refusal(405, f"wanted {' or '.join(methods)}").with_headers({"allow": ", ".join(methods)})
        route, matched = found
        return await route.handler(matched)

    async def _health(self, request: WebRequest) -> WebResponse:
        limit = self._agent.options.unhealthy_after
        down = [
            volume.index
            for volume in self._agent.volumes
            if volume.state is State.BROKEN and time.time() - volume.broken_since > limit
        ]
        status = "unhealthy" if down else "ok"
        return _json({"status": status, "down": down}, 503 if down else 200)

    async def _ready(self, request: WebRequest) -> WebResponse:
        waiting = self._agent.waiting_for()
        return _json({"ready": not waiting, "waiting_for": waiting}, 503 if waiting else 200)

    async def _metrics(self, request: WebRequest) -> WebResponse:
        text = metrics_text(map(snapshot, self._agent.volumes), ready=not self._agent.waiting_for())
        return WebResponse(200, text, content_type=CONTENT_TYPE)

    async def _volumes(self, request: WebRequest) -> WebResponse:
        return _json({"volumes": [asdict(snapshot(volume)) for volume in self._agent.volumes]})

    async def _volume(self, request: WebRequest) -> WebResponse:
        volume = self._find(request)
        return _refusal(404, "no such volume") if volume is None else _json(asdict(snapshot(volume)))

    async def _sync(self, request: WebRequest) -> WebResponse:
        volume = self._find(request)
        if volume is None:
            return _refusal(404, "no such volume")
        if volume.state is not State.MOUNTED:
            return _refusal(409, f"volume {volume.index} is {volume.state}, wanted mounted")
        began = time.monotonic()
        try:
            with trio.fail_after(SYNC_SECONDS):
                await volume.sync()
        except trio.TooSlowError:
            return _refusal(504, f"not stored within {SYNC_SECONDS:g} s; it goes on")
        except (EncfsError, OSError) as exc:
            log.error("volume %d: sync: %s", volume.index, exc)
            return _refusal(500, str(exc))
        await _next_beat(volume)
        took = round(time.monotonic() - began, 4)
        return _json({"stored": True, "seconds": took, "volume": asdict(snapshot(volume))})

    def _find(self, request: WebRequest) -> AgentVolume | None:
        text = request.parameters["index"]
        if not (text.isascii() and text.isdigit() and len(text) < 4):
            return None
        return next((v for v in self._agent.volumes if v.index == int(text)), None)


def snapshot(volume: AgentVolume) -> Snapshot:
    """One look at a volume, which touches nothing that could be stuck."""
    session = volume.session
    driver = None if session is None else session.driver
    reading = None if driver is None else driver.pulse.read()
    settings = volume.settings
    return Snapshot(
        index=volume.index,
        image=settings.name,
        mount_point=settings.mount_point,
        read_write=settings.read_write,
        state=volume.state.value,
        since=round(volume.since, 3),
        restarts=volume.restarts,
        error="" if volume.error is None else str(volume.error),
        writable=volume.takes_writes(),
        driver_pid=None if driver is None else driver.pid,
        requests=0 if reading is None else reading.begun,
        tampered=0 if reading is None else reading.tampered,
        in_flight=0 if reading is None else reading.in_flight,
        store=None if reading is None else _store(reading, is_blob=not isinstance(settings.image, str)),
    )


async def _next_beat(volume: AgentVolume) -> None:
    """Wait until the driver has said anew how it stands, so that a receipt is not older than its sync."""
    driver = None if volume.session is None else volume.session.driver
    if driver is not None and not isinstance(volume.settings.image, str):
        beats = driver.pulse.read().beats
        with trio.move_on_after(_BEAT_SECONDS):
            while driver.pulse.read().beats < beats + 2:
                await trio.sleep(0.02)


def _store(reading: Reading, *, is_blob: bool) -> dict[str, object]:
    """How the driver stands with its store; a local image is written before a write is answered."""
    if not is_blob:
        return {"kind": "file", "dirty_bytes": 0}
    return {
        "kind": "blob",
        "dirty_bytes": reading.dirty,
        "accepted_generation": reading.accepted,
        "stored_generation": reading.stored,
        "failures": reading.failures,
        "lease": LEASES[reading.lease],
        "token_expiry": reading.token_expiry or None,
    }


def _json(value: object, status: int = 200) -> WebResponse:
    return WebResponse(status, json.dumps(value).encode() + b"\n")


def _refusal(status: int, message: str) -> WebResponse:
    return json_response({"error": message}, status)
