"""The local blob service as an httpx transport, in this process and on this test's clock, with a bad network.

The service is the real one; only sockets and threads are left out, so that time can jump.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import httpx
import trio

from sidecar.local import ca
from sidecar.local.blobauth import Gate
from sidecar.local.blobs import ACCOUNT, RESOURCE, BlobService
from sidecar.local.blobstore import BlobStore
from sidecar.local.faults import FaultScript
from sidecar.local.tokens import Identity, TokenSigner
from sidecar.web import WebRequest, parse_query

T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "c2VjcmV0"
_ISSUED: list[ca.Issued] = []


class InlineStore(BlobStore):
    """Works at once instead of in a thread: a clock that jumps does not wait for threads."""

    async def run(self, call: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return call()


def now() -> datetime:
    """The service's time: the test's clock."""
    return START + timedelta(seconds=trio.current_time())


class BadNetwork(httpx.AsyncBaseTransport):
    """One blob service, and what lies between.

    Attributes:
        faults: of the service; a test may exchange its rules.
        lose_answers: so many requests are carried out, but their answers are lost.
        down: every request fails before it arrives.
        held: requests that seemed to fail are kept here when `hold` is set, and can arrive later.
        seen: method, `comp` and headers of every request that arrived.
    """

    def __init__(self, *faults: str) -> None:
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self.store = InlineStore(Path(folder))
        self._stack.callback(self.store.close)
        self.store.add_container("images", public=True)
        if not _ISSUED:
            _ISSUED.append(ca.make_self_signed("sts", START))
        self.signer = TokenSigner("https://sts", _ISSUED[0])
        self.faults = FaultScript.parse(faults)
        self.clock: Callable[[], datetime] = now
        gate = Gate(KEY, self.signer, (RESOURCE,), "https://sts/tenant")
        self._service = BlobService(self.store, gate, lambda: self.clock()).service(self.faults)
        self.lose_answers = 0
        self.down = False
        self.hold = False
        self.held: list[httpx.Request] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    def token(self, life: int = 3600) -> str:
        """An access token of the tenant."""
        return self.signer.access_token(Identity("c", "o"), RESOURCE, "t", self.clock(), life=life)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.hold:
            self.held.append(request)
            raise httpx.ReadTimeout("nobody answers")
        if self.down:
            raise httpx.ConnectError("refused")
        answer = await self.deliver(request)
        if self.lose_answers:
            self.lose_answers -= 1
            raise httpx.ReadError("the connection ended")
        return answer

    async def deliver(self, request: httpx.Request) -> httpx.Response:
        """Let a request arrive."""
        body = b"".join([bytes(part) async for part in request.stream])  # type: ignore[union-attr]
        query = parse_query(request.url.query.decode())
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.method, query.get("comp", ""), headers))
        path = request.url.raw_path.partition(b"?")[0].decode()
        reply = await self._service(WebRequest(request.method, path, query, headers, body))
        content = reply.body if reply.cut is None else reply.body[: reply.cut]
        if reply.cut == 0:
            raise httpx.RemoteProtocolError("closed without an answer")
        return httpx.Response(reply.status, headers=dict(reply.headers), stream=httpx.ByteStream(content))

    async def aclose(self) -> None:
        """Kept open: several devices share one service; `close` ends it."""

    def close(self) -> None:
        self._stack.close()

    async def owner(self, method: str, query: str = "", body: bytes = b"", **headers: str) -> httpx.Response:
        """A request by somebody else who may do everything; an underscore stands for a dash."""
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        lines |= {"authorization": f"Bearer {self.token()}", "host": "localhost"}
        address = f"https://localhost/{ACCOUNT}/images/disk?{query}"
        stream = httpx.ByteStream(body)
        return await self.deliver(httpx.Request(method, address, headers=lines, stream=stream))

    async def page_blob(self, size: int) -> None:
        """Make the one blob, `disk`."""
        answer = await self.owner("PUT", x_ms_blob_type="PageBlob", x_ms_blob_content_length=str(size))
        assert answer.status_code == 201

    async def content(self) -> bytes:
        return await (await self.owner("GET")).aread()
