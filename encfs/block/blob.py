"""Source: a blob. Page blobs read-write, page and block blobs read-only.

Strategy
- Read-only: every read names the ETag seen at open, so a blob that was replaced is an error, never a mixture.
- Read-write: the lease makes us the only writer. Every request carries it, so the store itself refuses what
  we ask after losing it. How writes at once are kept from landing on one another late: `blobfence`.
- Parts that were never written are known from Get Page Ranges and are answered without a request.

Rules: one `read_into` is at most one ranged GET; one `write` is one Put Page per 4 MiB; nothing is repeated
here but what losing an answer or a lease that ran out makes necessary.

Spec: Azure Storage REST, Get Blob, Put Page, Get Page Ranges, Specifying conditional headers.

Kind: adapter
"""

from __future__ import annotations

import logging
import ssl
from urllib.parse import quote

import trio

from encfs.block.blobcodec import (
    MAX_BLOB,
    MAX_PAGE_LIST,
    MAX_PUT,
    PAGE,
    BlobKind,
    BlobProperties,
    check_body,
    check_range_reply,
    parse_page_list,
    parse_properties,
    range_headers,
)
from encfs.block.blobfence import Fence
from encfs.block.blobholes import HoleMap
from encfs.block.blobhttp import ATTEMPT_SECONDS, BlobHttp, BlobTokens, Transport
from encfs.block.bloblease import Lease
from encfs.block.bloburl import BlobUrl
from encfs.block.device import Buffer, check_request
from encfs.block.retry import DEADLINE, retried
from encfs.errors import (
    ImageChanged,
    LeaseLost,
    ReadOnlyDevice,
    StoreError,
    StoreUnavailable,
    TruncatedImage,
    UnsuitableBlob,
)

log = logging.getLogger(__name__)

_TURNS = 8  # how often a write may find that something changed under it before it is the retry layer's turn
_MAX_LISTS = 64
_ZEROS = memoryview(bytes(256 << 10))


class BlobDevice:
    """A block device over one blob; make it with `open_blob`.

    Args:
        http: requests to the blob; owned.
        properties: as seen at open, under the lease when there is one.
        holes: what was never written.
        lease: held by us; None for reading only.
        checked: ask for an MD5 with every read.
    """

    block_size = PAGE

    def __init__(
        self,
        http: BlobHttp,
        properties: BlobProperties,
        holes: HoleMap,
        lease: Lease | None,
        *,
        checked: bool = False,
    ) -> None:
        self.http = http
        self.size = properties.size
        self.kind = properties.kind
        self.lease = lease
        self.lost: LeaseLost | None = None
        self._holes = holes
        self._etag = properties.etag
        self._fence = None if lease is None else Fence(http, lease, properties)
        self._checked = checked

    @property
    def etag(self) -> str:
        """Of the last answer that had one."""
        return self._etag if self._fence is None else self._fence.etag

    @property
    def read_only(self) -> bool:
        """Becomes True when the lease is lost."""
        return self.lease is None or self.lost is not None

    @property
    def lease_state(self) -> str:
        """`none`, `held` or `lost`."""
        return "lost" if self.lost is not None else "none" if self.lease is None else "held"

    async def keep_lease(self) -> None:
        """Renew the lease until cancelled or lost; run it beside the device when that is read-write."""
        if self.lease is not None:
            self._lose(await self.lease.keep())

    # -- reading --------------------------------------------------------------------------------

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        start, end = self._holes.data_in(offset, len(buffer))
        _zero(buffer[: start - offset])
        _zero(buffer[end - offset :])
        if start < end:
            await self._fetch(start, buffer[start - offset : end - offset], checked=self._checked)

    def is_hole(self, offset: int, length: int) -> bool:
        """Whether a range was never written: it reads as zeros, and nobody is asked."""
        start, end = self._holes.data_in(offset, length)
        return start == end

    async def _fetch(self, offset: int, buffer: memoryview, *, checked: bool) -> None:
        doing = f"reading {len(buffer)} bytes at {offset}"
        headers = range_headers(offset, len(buffer), checked=checked)
        try:
            reply = await self.http.send("GET", headers=headers | self._pin(), doing=doing, into=buffer)
        except LeaseLost as exc:
            await self._regain(exc)
            reply = await self.http.send("GET", headers=headers | self._pin(), doing=doing, into=buffer)
        check_range_reply(reply.headers, offset, len(buffer), self.size)
        check_body(reply.headers, buffer)

    def _pin(self) -> dict[str, str]:
        """What makes the store refuse a read of anything but our blob."""
        if self.lease is not None and self.lost is None:
            return {"x-ms-lease-id": self.lease.lease_id}
        return {"if-match": self.etag}

    def read_exactly(self, offset: int, length: int) -> bytes:
        """Read any byte range with its MD5, from a worker thread of trio's; for headers.

        Raises:
            TruncatedImage: the range does not lie inside the image.
            StoreError: reading failed.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TruncatedImage(f"image: {self.size} bytes long, wanted {length} bytes at {offset}")
        data = bytearray(length)
        start, end = self._holes.data_in(offset, length)
        if start < end:
            part = memoryview(data)[start - offset : end - offset]
            trio.from_thread.run(retried, lambda: self._fetch(start, part, checked=True))
        return bytes(data)

    # -- writing --------------------------------------------------------------------------------

    async def write(self, offset: int, data: Buffer) -> None:
        if self.lost is not None:
            raise LeaseLost(str(self.lost), hint=self.lost.hint)
        if self._fence is None:
            raise ReadOnlyDevice(f"image {self.http.url.name}: open read-only")
        check_request(self, offset, len(data))
        view = memoryview(data)
        for start in range(0, len(view), MAX_PUT):
            await self._put(self._fence, offset + start, view[start : start + MAX_PUT])

    async def _put(self, fence: Fence, offset: int, part: memoryview) -> None:
        # Before the request: from then on the store may hold it, answer or not.
        self._holes.mark(offset, len(part))
        for _ in range(_TURNS):
            if self.lost is not None:
                raise LeaseLost(str(self.lost), hint=self.lost.hint)
            try:
                if await fence.put(offset, part):
                    return
            except ImageChanged as exc:
                raise self._lose(LeaseLost(str(exc), hint=exc.hint)) from exc
            except LeaseLost as exc:
                await self._regain(exc)
        raise StoreUnavailable(
            f"image {self.http.url.name}: other writes of ours came between {_TURNS} times"
        )

    async def _regain(self, refused: LeaseLost) -> None:
        """After a request was refused for its lease: renew it if it only ran out.

        Raises:
            LeaseLost: another came between; the device is read-only from here on.
        """
        assert self.lease is not None
        try:
            await self.lease.renew()
            log.info("image %s: the lease had run out and was renewed", self.http.url.name)
        except LeaseLost:
            raise self._lose(refused) from None

    def _lose(self, error: LeaseLost) -> LeaseLost:
        if self.lost is None:
            self.lost = error
            log.error("%s: read-only from here on", error)
        return self.lost

    async def flush(self) -> None:
        """Nothing to do: a write that returned is in the store, in three copies at least."""

    async def aclose(self) -> None:
        """Release the lease and close all connections."""
        if self.lease is not None and self.lost is None:
            await self.lease.release()
        await self.http.aclose()


async def open_blob(
    url: BlobUrl,
    *,
    read_only: bool,
    tokens: BlobTokens | None = None,
    tls: ssl.SSLContext | None = None,
    lease_id: str = "",
    etag: str = "",
    take_over: bool = False,
    checked: bool = False,
    unfinished: bool = False,
    deadline: float = DEADLINE,
    attempt_seconds: float = ATTEMPT_SECONDS,
    transport: Transport | None = None,
) -> BlobDevice:
    """Open a blob: look at it, take the lease when it is to be written, learn what was never written.

    Args:
        url: with its signature, if any.
        read_only: take no lease, refuse writes, pin every read to what is there now.
        tokens: bearer tokens; None for a signature or anonymous access.
        tls: what the server's certificate must lead to; None for the system's roots.
        lease_id: a lease acquired under this GUID is taken over from our own supervisor; new when empty.
        etag: what the blob must still be; empty for whatever it is now.
        take_over: end another's lease.
        checked: ask for an MD5 with every read, which costs time on both sides.
        unfinished: accept the blob of an upload that is not complete.
        deadline: seconds for every request of the opening with its repetitions.
        attempt_seconds: seconds for one attempt.
        transport: replaces the network, for tests.

    Raises:
        ImageMissing, AccessDenied: there is no such blob, or not for us.
        UnsuitableBlob: of another type, not a multiple of 512 bytes, or a block blob to be written.
        ImageBusy: another has the lease.
        ImageChanged: it is not what `etag` says.
    """
    http = BlobHttp(url, tokens=tokens, tls=tls, transport=transport, attempt_seconds=attempt_seconds)
    lease: Lease | None = None
    try:
        properties = await retried(lambda: _head(http), deadline=deadline)
        _check_suitable(properties, http, read_only=read_only, unfinished=unfinished)
        if not read_only:
            writer = Lease(http, lease_id)
            await writer.acquire(deadline=deadline, take_over=take_over)
            lease = writer
            properties = await retried(lambda: _head(http, writer), deadline=deadline)
            _check_suitable(properties, http, read_only=read_only, unfinished=unfinished)
        if etag and etag != properties.etag:
            raise ImageChanged(f"image {url.name}: replaced since its header was read")
        holes = await retried(lambda: _find_holes(http, properties, lease), deadline=deadline)
        return BlobDevice(http, properties, holes, lease, checked=checked)
    except BaseException:
        with trio.CancelScope(shield=True):
            if lease is not None:
                await lease.release()
            await http.aclose()
        raise


async def _head(http: BlobHttp, lease: Lease | None = None) -> BlobProperties:
    """Get Blob Properties, under our lease when there is one."""
    headers = {} if lease is None else {"x-ms-lease-id": lease.lease_id}
    reply = await http.send("HEAD", headers=headers, doing="looking at it")
    return parse_properties(reply.headers)


def _check_suitable(properties: BlobProperties, http: BlobHttp, *, read_only: bool, unfinished: bool) -> None:
    name = http.url.name
    if properties.upload and not unfinished:
        raise UnsuitableBlob(
            f"image {name}: its upload is not complete", hint="run the same `encfs upload` again: it goes on"
        )
    if not read_only and properties.kind is not BlobKind.PAGE:
        raise UnsuitableBlob(
            f"image {name}: a {properties.kind}, wanted a {BlobKind.PAGE} to write to",
            hint="mount it with --read-only, or upload it as a page blob: encfs upload --type page",
        )
    if not 0 < properties.size <= MAX_BLOB or properties.size % PAGE:
        raise UnsuitableBlob(
            f"image {name}: {properties.size} bytes, wanted a multiple of {PAGE} up to 8 TiB",
            hint="it is no image, or not all of one: upload it again with encfs upload",
        )


async def _find_holes(http: BlobHttp, properties: BlobProperties, lease: Lease | None) -> HoleMap:
    """What was never written; everything counts as written where the store's list is too long to hold."""
    if properties.kind is not BlobKind.PAGE:
        return HoleMap(properties.size, full=True)
    pin = {"if-match": properties.etag} if lease is None else {"x-ms-lease-id": lease.lease_id}
    holes = HoleMap(properties.size)
    query = "comp=pagelist"
    for _ in range(_MAX_LISTS):
        try:
            reply = await http.send(
                "GET", query, headers=pin, doing="listing its pages", max_body=MAX_PAGE_LIST
            )
            found = parse_page_list(reply.body, properties.size)
        except StoreUnavailable:
            raise
        except StoreError as exc:
            if isinstance(exc, ImageChanged | LeaseLost):
                raise
            log.info("%s: reading holes as well", exc)
            return HoleMap(properties.size, full=True)
        for start, end in found.ranges:
            holes.mark(start, end - start)
        if not found.marker:
            return holes
        query = f"comp=pagelist&marker={quote(found.marker, safe='')}"
    return HoleMap(properties.size, full=True)


def _zero(view: memoryview) -> None:
    """Fill with zeros, taking no memory for it."""
    for start in range(0, len(view), len(_ZEROS)):
        part = view[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]
