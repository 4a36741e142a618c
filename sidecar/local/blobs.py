"""The blob service of the cloud in a box: page and block blobs with leases, conditions and page ranges.

    https://localhost:PORT/local/CONTAINER/BLOB

Strategy: every operation is one function that runs alone in the store's worker thread: it looks the blob up,
lets the lease and the conditions have their say, and changes it. So nothing comes between a check and what it
allows, and one Put Page is atomic.

Rules: what the service's documentation refuses is refused with the same word; what is not imitated
(snapshots, versions, append blobs, tiers, copy, lists of blobs) is answered 400 or 404, never half done.

Spec: Azure Storage REST, Blob service: Put Blob, Get Blob, Get Blob Properties, Set Blob Properties, Set
Blob Metadata, Delete Blob, Put Page, Get Page Ranges, Put Block, Put Block List, Get Block List, Lease Blob,
Create Container, Get Container Properties.

Kind: composition
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

from sidecar.local.blobauth import VERSION, Gate, Permission, Resource
from sidecar.local.bloblease import INFINITE, Lease, LeaseState
from sidecar.local.blobstore import BlobRecord, BlobStore
from sidecar.local.blobwire import (
    MAX_PUT_PAGE,
    MAX_RANGE_MD5,
    PAGE,
    XML_TYPE,
    block_list,
    block_name,
    check_conditions,
    check_md5,
    check_sequence,
    date_text,
    etag_text,
    lease_id,
    md5_text,
    metadata_of,
    number,
    page_list,
    parse_block_list,
    parse_page_range,
    parse_range,
    render_error,
)
from sidecar.local.faults import FaultScript
from sidecar.local.refusal import Refusal
from sidecar.local.service import Clock, Service
from sidecar.web import Handler, Route, Router, WebRequest, WebResponse

ACCOUNT = "local"
CONTAINER = "images"
RESOURCE = "https://storage.azure.com"
MAX_BLOB = 8 << 40
MAX_BODY = 64 << 20  # also the largest block
MAX_WHOLE = 256 << 20  # largest answer
PAGE_BLOB, BLOCK_BLOB = "PageBlob", "BlockBlob"
_PLAIN = frozenset({"snapshot", "versionid", "prevsnapshot"})

Work = Callable[[WebRequest, Resource, float], WebResponse]
_READ = (Permission.READ,)
_WRITE = (Permission.WRITE,)
_CREATE = (Permission.CREATE, Permission.WRITE)


class BlobRouter(Router):
    """Routes by method, level and `comp`, because names of blobs have slashes in them."""

    def __init__(self) -> None:
        super().__init__()
        self._table: dict[tuple[str, bool, str], Route] = {}

    def add_operation(self, name: str, method: str, handler: Handler, *, blob: bool, comp: str = "") -> None:
        """Add an operation on blobs or on containers."""
        self._table[method, blob, comp] = Route(name, method, (), handler)

    def find(self, request: WebRequest) -> tuple[Route, WebRequest] | None:
        """The operation, with the parameters account, container and blob."""
        account, _, rest = request.path.removeprefix("/").partition("/")
        container, _, blob = rest.partition("/")
        is_container = request.query.get("restype") == "container"
        if not container or is_container == bool(blob):
            return None
        route = self._table.get((request.method, bool(blob), request.query.get("comp", "")))
        if route is None or _PLAIN & request.query.keys():
            return None
        names = {"account": account, "container": container, "blob": blob}
        return route, replace(request, parameters={name: unquote(text) for name, text in names.items()})

    def methods(self, path: str) -> list[str]:
        """Unknown operations are 404, whatever their method."""
        return []


@dataclass(frozen=True, slots=True)
class BlobService:
    """One account."""

    store: BlobStore
    gate: Gate
    clock: Clock

    def service(self, faults: FaultScript) -> Service:
        """The routes as a service that obeys a fault script."""
        router = BlobRouter()

        def add(name: str, method: str, work: Work, wanted: Sequence[Permission], *, comp: str = "") -> None:
            router.add_operation(name, method, self._guarded(work, wanted), blob=True, comp=comp)

        add("get", "GET", self._get, _READ)
        add("head", "HEAD", self._head, _READ)
        add("put-blob", "PUT", self._put_blob, _CREATE)
        add("delete", "DELETE", self._delete, (Permission.DELETE,))
        add("put-page", "PUT", self._put_page, _WRITE, comp="page")
        add("page-list", "GET", self._page_list, _READ, comp="pagelist")
        add("lease", "PUT", self._lease, _WRITE, comp="lease")
        add("set-properties", "PUT", self._set_properties, _WRITE, comp="properties")
        add("set-metadata", "PUT", self._set_metadata, _WRITE, comp="metadata")
        add("put-block", "PUT", self._put_block, _CREATE, comp="block")
        add("put-block-list", "PUT", self._put_block_list, _CREATE, comp="blocklist")
        add("get-block-list", "GET", self._get_block_list, _READ, comp="blocklist")
        make = self._guarded(self._make_container, _CREATE)
        router.add_operation("make-container", "PUT", make, blob=False)
        for method in ("GET", "HEAD"):
            look = self._guarded(self._look_at_container, _READ)
            router.add_operation("container", method, look, blob=False)
        return Service("blob", router, faults, _render, unreadable="InvalidQueryParameterValue")

    def _guarded(self, work: Work, wanted: Sequence[Permission]) -> Handler:
        """A handler that checks who asks, then does the work alone."""

        async def handler(request: WebRequest) -> WebResponse:
            resource = Resource(*(request.parameters[name] for name in ("account", "container", "blob")))
            now = self.clock()

            def run() -> WebResponse:
                if resource.account != ACCOUNT:
                    raise Refusal(404, "ResourceNotFound", f"the one account here is {ACCOUNT}")
                public = bool(self.store.container(resource.container))
                self.gate.check(request, resource, wanted, public=public, now=now)
                return work(request, resource, now.timestamp())

            response = (await self.store.run(run)).with_headers(_common())
            return response

        return handler

    # -- containers -----------------------------------------------------------------------------

    def _make_container(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        public = request.headers.get("x-ms-blob-public-access", "") != ""
        if not self.store.add_container(resource.container, public=public):
            raise Refusal(409, "ContainerAlreadyExists", "The specified container already exists.")
        return WebResponse(
            201, headers={"etag": etag_text(self.store.next_etag()), "last-modified": date_text(now)}
        )

    def _look_at_container(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        public = self.store.container(resource.container)
        if public is None:
            raise Refusal(404, "ContainerNotFound", "The specified container does not exist.")
        access = {"x-ms-blob-public-access": "container"} if public else {}
        state = {"x-ms-lease-status": "unlocked", "x-ms-lease-state": "available"}
        return WebResponse(
            200, headers={"etag": etag_text(1), "last-modified": date_text(now)} | access | state
        )

    # -- reading --------------------------------------------------------------------------------

    def _readable(self, request: WebRequest, resource: Resource, now: float) -> BlobRecord:
        record = self._existing(resource)
        record.lease.check_read(lease_id(request.headers), now)
        check_conditions(request.headers, etag_text(record.etag), record.modified, reading=True)
        return record

    def _head(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        record = self._readable(request, resource, now)
        headers = _described(record, now) | {"content-length": str(record.size)}
        if record.content_md5:
            headers["content-md5"] = record.content_md5
        return WebResponse(200, b"", headers)

    def _get(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        record = self._readable(request, resource, now)
        found = parse_range(request.headers, record.size)
        start, end = found or (0, record.size)
        if end - start > MAX_WHOLE:
            raise Refusal(400, "InvalidHeaderValue", f"answers over {MAX_WHOLE} bytes: ask for a range")
        body = self.store.read(record.file, start, end - start)
        headers = _described(record, now)
        if found is None:
            if record.content_md5:
                headers["content-md5"] = record.content_md5
            return WebResponse(200, body, headers, "")
        headers["content-range"] = f"bytes {start}-{end - 1}/{record.size}"
        if record.content_md5:
            headers["x-ms-blob-content-md5"] = record.content_md5
        if request.headers.get("x-ms-range-get-content-md5", "").lower() == "true":
            if end - start > MAX_RANGE_MD5:
                raise Refusal(
                    400, "InvalidHeaderValue", "x-ms-range-get-content-md5: ranges up to 4 MiB only"
                )
            headers["content-md5"] = md5_text(body)
        return WebResponse(206, body, headers, "")

    def _page_list(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        record = self._readable(request, resource, now)
        _demand_kind(record, PAGE_BLOB)
        start, end = parse_range(request.headers, record.size) or (0, record.size)
        body = page_list(self.store.written(record.file).within(start, end))
        headers = _changed(record) | {"x-ms-blob-content-length": str(record.size)}
        return WebResponse(200, body, headers, XML_TYPE)

    def _get_block_list(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        record = self.store.find(resource.container, resource.blob)
        if record is None:
            raise Refusal(404, "BlobNotFound", "The specified blob does not exist.")
        record.lease.check_read(lease_id(request.headers), now)
        wanted = request.query.get("blocklisttype", "committed").lower()
        committed = record.blocks if wanted in ("committed", "all") else ()
        uncommitted = self.store.blocks(record.file) if wanted in ("uncommitted", "all") else {}
        headers = {"x-ms-blob-content-length": str(record.size)} | (_changed(record) if record.kind else {})
        return WebResponse(200, block_list(committed, uncommitted), headers, XML_TYPE)

    # -- writing --------------------------------------------------------------------------------

    def _writable(self, request: WebRequest, resource: Resource, now: float) -> BlobRecord:
        record = self._existing(resource)
        lease = record.lease.check_write(lease_id(request.headers), now)
        check_conditions(request.headers, etag_text(record.etag), record.modified, reading=False)
        return replace(record, lease=lease)

    def _touched(self, record: BlobRecord, now: float) -> BlobRecord:
        """Save a change of a blob: it has a new ETag then."""
        changed = replace(record, etag=self.store.next_etag(), modified=now)
        self.store.save(changed)
        return changed

    def _put_blob(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        if self.store.container(resource.container) is None:
            raise Refusal(404, "ContainerNotFound", "The specified container does not exist.")
        old = self.store.find(resource.container, resource.blob)
        lease = Lease() if old is None else old.lease.check_write(lease_id(request.headers), now)
        seen = etag_text(old.etag) if old is not None and old.kind else None
        check_conditions(request.headers, seen, 0 if old is None else old.modified, reading=False)
        kind = request.headers.get("x-ms-blob-type", "")
        checksum = check_md5(request.headers, request.body)
        if kind == PAGE_BLOB:
            size = number(
                request.headers.get("x-ms-blob-content-length", ""), "x-ms-blob-content-length", MAX_BLOB
            )
            if size % PAGE or request.body:
                message = f"a page blob has a multiple of {PAGE} bytes and no body"
                raise Refusal(400, "InvalidHeaderValue", message)
            checksum = ""
        elif kind == BLOCK_BLOB:
            size = len(request.body)
        else:
            raise Refusal(400, "InvalidHeaderValue", f"x-ms-blob-type: wanted {PAGE_BLOB} or {BLOCK_BLOB}")
        file = self.store.new_file(size)
        if request.body:
            self.store.write(file, 0, request.body)
        record = BlobRecord(
            *(resource.container, resource.blob, kind, size, 0, now, now, file),
            sequence=number(
                request.headers.get("x-ms-blob-sequence-number", "0"), "sequence number", (1 << 63) - 1
            ),
            content_type=_content_type(request),
            content_md5=request.headers.get("x-ms-blob-content-md5", checksum),
            metadata=metadata_of(request.headers),
            lease=lease,
        )
        record = self._touched(record, now)
        if old is not None:
            self.store.drop(old.file)
        return WebResponse(201, headers=_changed(record) | ({"content-md5": checksum} if checksum else {}))

    def _put_page(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        record = self._writable(request, resource, now)
        _demand_kind(record, PAGE_BLOB)
        check_sequence(request.headers, record.sequence)
        start, end = parse_page_range(request.headers, record.size)
        action = request.headers.get("x-ms-page-write", "").lower()
        answer: dict[str, str] = {}
        if action == "clear":
            if request.body:
                raise Refusal(400, "InvalidHeaderValue", "Content-Length: wanted 0 to clear pages")
            self.store.clear(record.file, start, end - start)
        elif action == "update":
            if end - start > MAX_PUT_PAGE:
                raise Refusal(413, "RequestBodyTooLarge", "a page write has at most 4 MiB")
            if len(request.body) != end - start:
                raise Refusal(400, "InvalidHeaderValue", "Content-Length: is not the length of the range")
            answer["content-md5"] = check_md5(request.headers, request.body)
            self.store.write(record.file, start, request.body)
        else:
            raise Refusal(400, "InvalidHeaderValue", "x-ms-page-write: wanted update or clear")
        record = self._touched(record, now)
        return WebResponse(201, headers=_changed(record) | answer | _sequence(record))

    def _set_properties(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        record = self._writable(request, resource, now)
        if (text := request.headers.get("x-ms-blob-content-length")) is not None:
            _demand_kind(record, PAGE_BLOB)
            size = number(text, "x-ms-blob-content-length", MAX_BLOB)
            if size % PAGE:
                raise Refusal(
                    400, "InvalidHeaderValue", f"x-ms-blob-content-length: wanted a multiple of {PAGE}"
                )
            self.store.resize(record.file, size)
            record = replace(record, size=size)
        if (action := request.headers.get("x-ms-sequence-number-action", "").lower()) != "":
            _demand_kind(record, PAGE_BLOB)
            given = number(
                request.headers.get("x-ms-blob-sequence-number", "0"), "sequence number", (1 << 63) - 1
            )
            wanted = {"max": max(record.sequence, given), "update": given, "increment": record.sequence + 1}
            if action not in wanted:
                raise Refusal(
                    400, "InvalidHeaderValue", "x-ms-sequence-number-action: max, update or increment"
                )
            record = replace(record, sequence=wanted[action])
        if (content_type := request.headers.get("x-ms-blob-content-type")) is not None:
            record = replace(record, content_type=content_type)
        record = self._touched(record, now)
        return WebResponse(200, headers=_changed(record) | _sequence(record))

    def _set_metadata(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        record = replace(self._writable(request, resource, now), metadata=metadata_of(request.headers))
        return WebResponse(200, headers=_changed(self._touched(record, now)))

    def _delete(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        self.store.delete(self._writable(request, resource, now))
        return WebResponse(202)

    # -- blocks ---------------------------------------------------------------------------------

    def _put_block(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        block = block_name(request.query.get("blockid", ""))
        checksum = check_md5(request.headers, request.body)
        if not request.body:
            raise Refusal(400, "InvalidHeaderValue", "Content-Length: a block has at least one byte")
        record = self._of_blocks(request, resource, now)
        self.store.put_block(record.file, block, request.body)
        return WebResponse(201, headers={"content-md5": checksum})

    def _of_blocks(self, request: WebRequest, resource: Resource, now: float) -> BlobRecord:
        """The blob that blocks belong to, made uncommitted when there is none."""
        if self.store.container(resource.container) is None:
            raise Refusal(404, "ContainerNotFound", "The specified container does not exist.")
        record = self.store.find(resource.container, resource.blob)
        if record is None:
            record = BlobRecord(resource.container, resource.blob, "", 0, 0, now, now, self.store.new_file(0))
            self.store.save(record)
        elif record.kind:
            _demand_kind(record, BLOCK_BLOB)
        lease = record.lease.check_write(lease_id(request.headers), now)
        return replace(record, lease=lease)

    def _put_block_list(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        checksum = check_md5(request.headers, request.body)
        wanted = parse_block_list(request.body)
        record = self._of_blocks(request, resource, now)
        seen = etag_text(record.etag) if record.kind else None
        check_conditions(request.headers, seen, record.modified, reading=False)
        committed, offset = {}, 0
        for block, length in record.blocks:
            committed[block] = (offset, length)
            offset += length
        uncommitted = self.store.blocks(record.file)
        new, blocks, at = self.store.new_file(0), [], 0
        for where, block in wanted:
            if where != "Committed" and block in uncommitted:
                data = self.store.block(record.file, block)
            elif where != "Uncommitted" and block in committed:
                data = self.store.read(record.file, *committed[block])
            else:
                self.store.drop(new)
                raise Refusal(400, "InvalidBlockList", "The specified block list is invalid.")
            self.store.write(new, at, data)
            blocks.append((block, len(data)))
            at += len(data)
        old = record.file
        record = replace(
            record,
            kind=BLOCK_BLOB,
            size=at,
            file=new,
            blocks=tuple(blocks),
            content_type=_content_type(request),
            content_md5=request.headers.get("x-ms-blob-content-md5", ""),
            metadata=metadata_of(request.headers),
        )
        record = self._touched(record, now)
        self.store.drop(old)
        return WebResponse(201, headers=_changed(record) | {"content-md5": checksum})

    # -- leases ---------------------------------------------------------------------------------

    def _lease(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        record = self._existing(resource)
        check_conditions(request.headers, etag_text(record.etag), record.modified, reading=False)
        headers, lease = request.headers, record.lease
        given, proposed = lease_id(headers), lease_id(headers, "x-ms-proposed-lease-id")
        status, answer = 200, {}
        match headers.get("x-ms-lease-action", "").lower():
            case "acquire":
                seconds = _seconds(headers.get("x-ms-lease-duration", ""))
                lease = lease.acquire(proposed or str(uuid.uuid4()), seconds, now)
                status = 201
            case "renew":
                lease = lease.renew(given, now)
            case "change":
                lease = lease.change(given, proposed, now)
            case "release":
                lease = lease.release(given)
            case "break":
                text = headers.get("x-ms-lease-break-period")
                lease, left = lease.broken(None if text is None else _seconds(text), now)
                status, answer = 202, {"x-ms-lease-time": str(left)}
            case _:
                raise Refusal(400, "InvalidHeaderValue", "x-ms-lease-action: not one of the five")
        self.store.save(replace(record, lease=lease))
        if lease.lease_id and status != 202:
            answer["x-ms-lease-id"] = lease.lease_id
        return WebResponse(status, headers=_changed(record) | answer)

    def _existing(self, resource: Resource) -> BlobRecord:
        if self.store.container(resource.container) is None:
            raise Refusal(404, "ContainerNotFound", "The specified container does not exist.")
        record = self.store.find(resource.container, resource.blob)
        if record is None or not record.kind:
            raise Refusal(404, "BlobNotFound", "The specified blob does not exist.")
        return record


def _demand_kind(record: BlobRecord, kind: str) -> None:
    if record.kind != kind:
        raise Refusal(409, "InvalidBlobType", "The blob type is invalid for this operation.")


def _seconds(text: str) -> int:
    """A duration of a lease header: a number or -1."""
    return INFINITE if text == "-1" else number(text, "lease duration", 1 << 31)


def _content_type(request: WebRequest) -> str:
    given = request.headers.get("x-ms-blob-content-type") or request.headers.get("content-type", "")
    return given if given.isprintable() and given else "application/octet-stream"


def _common() -> dict[str, str]:
    return {"x-ms-request-id": str(uuid.uuid4()), "x-ms-version": VERSION}


def _changed(record: BlobRecord) -> dict[str, str]:
    return {"etag": etag_text(record.etag), "last-modified": date_text(record.modified)}


def _sequence(record: BlobRecord) -> dict[str, str]:
    return {"x-ms-blob-sequence-number": str(record.sequence)} if record.kind == PAGE_BLOB else {}


def _described(record: BlobRecord, now: float) -> dict[str, str]:
    """What every answer that shows a blob says of it."""
    state = record.lease.state(now)
    headers = _changed(record) | _sequence(record)
    headers |= {
        "accept-ranges": "bytes",
        "content-type": record.content_type,
        "x-ms-blob-type": record.kind,
        "x-ms-creation-time": date_text(record.created),
        "x-ms-lease-state": state,
        "x-ms-lease-status": "locked" if record.lease.is_locked(now) else "unlocked",
        "x-ms-server-encrypted": "true",
    }
    if state is LeaseState.LEASED:
        headers["x-ms-lease-duration"] = "infinite" if record.lease.seconds == INFINITE else "fixed"
    return headers | {f"x-ms-meta-{name}": value for name, value in record.metadata.items()}


def _render(refusal: Refusal) -> WebResponse:
    return render_error(refusal).with_headers(_common())


def refuse(status: int, code: str, message: str) -> WebResponse:
    """An error answer for what never becomes a request."""
    return _render(Refusal(status, code, message))
