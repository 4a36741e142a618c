"""The lease that makes one machine the writer of a blob.

Strategy: a lease of 60 s, renewed every 15, under an identifier of our own: the store lets the same
identifier acquire again, so an acquire whose answer was lost may be repeated, and a driver takes over what
its supervisor acquired. Every life of a volume uses a new identifier, so a write that an earlier life left on
the network carries one that is no longer good.

Rules: the store is the judge, not our clock. After an outage longer than the lease it may still be renewed if
nobody came between; that is how an outage loses nothing. Only an answer that says another came between ends
it, for good.

Spec: Azure Storage REST, Lease Blob, outcomes of lease operations by lease state.

Kind: adapter
"""

from __future__ import annotations

import logging
import uuid

import trio

from encfs.block.blobcodec import lease_headers
from encfs.block.blobhttp import BlobHttp
from encfs.block.retry import retried
from encfs.errors import LeaseLost, StoreError, StoreUnavailable

log = logging.getLogger(__name__)

SECONDS = 60
_RENEW_SHARE = 0.25
_AGAIN_SECONDS = 2.0
_RELEASE_SECONDS = 5.0


class Lease:
    """One lease on one blob.

    Args:
        http: requests to the blob.
        lease_id: a GUID; a new one when empty.
        seconds: 15 to 60; renewed after a quarter of it.
    """

    def __init__(self, http: BlobHttp, lease_id: str = "", *, seconds: int = SECONDS) -> None:
        self._http = http
        self._seconds = seconds
        self.lease_id = lease_id or str(uuid.uuid4())

    async def acquire(self, *, deadline: float, take_over: bool = False) -> None:
        """Become the writer.

        Args:
            deadline: seconds for all tries.
            take_over: end another's lease first; its holder can then no longer write.

        Raises:
            ImageBusy: another has it.
        """
        if take_over:
            await retried(self._break, deadline=deadline)
        await retried(lambda: self._action("acquire", seconds=self._seconds), deadline=deadline)

    async def renew(self) -> None:
        """Prolong.

        Raises:
            LeaseLost: another came between.
            StoreUnavailable: not known; it may still be ours.
        """
        await self._action("renew")

    async def release(self) -> None:
        """Let others write at once; a failure only means that they wait until it runs out."""
        with trio.move_on_after(_RELEASE_SECONDS) as scope:
            try:
                await retried(lambda: self._action("release"), deadline=_RELEASE_SECONDS)
            except StoreError as exc:
                log.info("releasing the lease: %s", exc)
        if scope.cancelled_caught:
            log.info(
                "image %s: releasing the lease took too long; it runs out by itself", self._http.url.name
            )

    async def keep(self) -> LeaseLost:
        """Renew until another came between; that error is returned, for the device to raise ever after."""
        interval = pause = self._seconds * _RENEW_SHARE
        while True:
            await trio.sleep(pause)
            try:
                await self.renew()
                pause = interval
            except LeaseLost as exc:
                return exc
            except StoreUnavailable as exc:
                log.info("renewing the lease: %s", exc)
                pause = _AGAIN_SECONDS
            except StoreError as exc:
                log.error("renewing the lease: %s", exc)
                pause = _AGAIN_SECONDS

    async def _action(self, action: str, *, seconds: int | None = None) -> None:
        headers = lease_headers(action, lease_id=self.lease_id, seconds=seconds)
        await self._http.send("PUT", "comp=lease", headers=headers, doing=f"lease {action}")

    async def _break(self) -> None:
        try:
            await self._http.send("PUT", "comp=lease", headers=lease_headers("break"), doing="lease break")
            log.info("image %s: broke the lease that another had", self._http.url.name)
        except LeaseLost:
            pass  # there was none to break
