"""Page writes at once, and none that the store carries out late lands on a newer one.

The danger: a write gets no answer in time, is sent again, newer data follows at its place, and then the store
carries the first one out. Two conditions of the service prevent it:

- Every write names the blob's sequence number. After a write without an answer the number is raised before
  anything else is written, so what is still on its way is refused from then on. Writes that carry one number
  may be under way together.
- A write that starts alone also names the ETag that the last one left behind, so that a change by anybody
  else, which the lease should have prevented, is noticed; others wait for it. Writes together name `*`: any
  of them may be first, and each changes the ETag.

Rules: what may have been carried out counts as if it had not ended; a number that somebody else changed means
that somebody else writes.

Spec: Azure Storage REST, Put Page (x-ms-if-sequence-number-eq), Set Blob Properties
(x-ms-sequence-number-action).

Kind: adapter
"""

from __future__ import annotations

import trio

from encfs.block.blobcodec import BlobProperties, parse_etag, put_page_headers
from encfs.block.blobhttp import BlobHttp, Reply
from encfs.block.bloblease import Lease
from encfs.errors import AccessDenied, ImageBusy, ImageChanged, ImageMissing, LeaseLost

# Answers that say the write was not carried out, and never will be.
_REFUSED = (AccessDenied, ImageBusy, ImageChanged, ImageMissing, LeaseLost)


class Fence:
    """The writes to one blob.

    Args:
        http: requests to the blob.
        lease: held by us.
        properties: as seen under the lease.
    """

    def __init__(self, http: BlobHttp, lease: Lease, properties: BlobProperties) -> None:
        self._http = http
        self._lease = lease
        self.etag = properties.etag
        self._exact = True  # `etag` is the blob's, unless somebody else writes
        self._sequence = properties.sequence
        self._unanswered = -1  # highest number that a write without an answer carried
        self._waiting = 0
        self._solo: trio.Event | None = None  # set when the write that is alone has ended
        self._late = 0  # raises without an answer
        self._under_way = 0
        self._started = 0
        self._raising = trio.Lock()

    async def put(self, offset: int, part: memoryview) -> bool:
        """One attempt to write whole pages, at most 4 MiB; False when a write of our own came between.

        Raises:
            ImageChanged: somebody else writes.
            LeaseLost: the lease ran out, or is another's.
            StoreUnavailable: not known whether it was carried out.
        """
        await self._raise()
        while self._solo is not None:
            await self._wait(self._solo)
            await self._raise()
        sequence, first = self._sequence, self._under_way == 0
        alone = first and self._exact
        if alone:
            self._solo = trio.Event()
        conditions = {
            "x-ms-lease-id": self._lease.lease_id,
            "x-ms-if-sequence-number-eq": str(sequence),
            "if-match": self.etag if alone else "*",
        }
        self._started += 1
        number = self._started
        headers = put_page_headers(offset, part) | conditions
        doing = f"writing {len(part)} bytes at {offset}"
        try:
            reply = await self._counted("comp=page", headers, doing, part, sequence)
        except ImageChanged:
            if not self._is_ours(alone, sequence):
                raise
            self._exact = False
            return False
        finally:
            if alone and self._solo is not None:
                self._solo.set()
                self._solo = None
        # Those that wait go together then: were the ETag known, each would go alone.
        self._note(reply, exact=first and self._started == number and not self._waiting)
        return True

    async def _wait(self, solo: trio.Event) -> None:
        self._waiting += 1
        try:
            await solo.wait()
        finally:
            self._waiting -= 1

    def _is_ours(self, alone: bool, sequence: int) -> bool:
        """Whether a request of our own explains a condition that was not met."""
        # Raised meanwhile, or being raised: it can be carried out before its answer is here.
        if self._sequence != sequence or self._unanswered >= sequence:
            return True
        if alone and self._late:
            self._late -= 1
            return True
        return False

    async def _raise(self) -> None:
        """Make sure that no write without an answer is carried out from here on."""
        if self._unanswered < self._sequence:
            return
        async with self._raising:
            if self._unanswered < self._sequence:
                return
            wanted, number = self._sequence + 1, self._started
            headers = {
                "x-ms-lease-id": self._lease.lease_id,
                "x-ms-sequence-number-action": "max",  # again is no harm, and late neither
                "x-ms-blob-sequence-number": str(wanted),
            }
            alone = self._under_way == 0
            # Until its answer: one that is carried out late changes the ETag once more, though no number.
            self._late += 1
            try:
                reply = await self._http.send(
                    "PUT", "comp=properties", headers=headers, doing="fencing writes off"
                )
            except _REFUSED:
                self._late -= 1
                raise
            self._late -= 1
            self._sequence = wanted
            self._note(reply, exact=alone and self._started == number)

    async def _counted(
        self, query: str, headers: dict[str, str], doing: str, part: memoryview, sequence: int
    ) -> Reply:
        answered = False
        self._under_way += 1
        try:
            reply = await self._http.send("PUT", query, headers=headers, doing=doing, body=part)
            answered = True
            return reply
        except _REFUSED:
            answered = True
            raise
        finally:
            self._under_way -= 1
            if not answered:
                self._unanswered = max(self._unanswered, sequence)
                self._exact = False

    def _note(self, reply: Reply, *, exact: bool) -> None:
        self.etag = parse_etag(reply.headers)
        self._exact = exact
