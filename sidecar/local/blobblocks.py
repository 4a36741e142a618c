"""Block blobs in the local blob service: blocks are kept apart until a list makes a blob of them.

Spec: Azure Storage REST, Put Block, Put Block List, Get Block List.

Kind: composition
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sidecar.local.blobauth import Resource
from sidecar.local.blobdescribe import changed, content_type_of, demand_kind
from sidecar.local.blobrecord import BLOCK_BLOB, BlobRecord
from sidecar.local.blobstore import BlobStore
from sidecar.local.blobwire import (
    XML_TYPE,
    block_list,
    block_name,
    check_conditions,
    check_md5,
    etag_text,
    lease_id,
    metadata_of,
    parse_block_list,
)
from sidecar.local.refusal import Refusal
from sidecar.web import WebRequest, WebResponse


@dataclass(frozen=True, slots=True)
class Blocks:
    """The operations on blocks; each runs alone in the store's thread."""

    store: BlobStore

    def get_list(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        """Committed and uncommitted blocks."""
        record = self.store.find(resource.container, resource.blob)
        if record is None:
            raise Refusal(404, "BlobNotFound", "The specified blob does not exist.")
        record.lease.check_read(lease_id(request.headers), now)
        wanted = request.query.get("blocklisttype", "committed").lower()
        committed = record.blocks if wanted in ("committed", "all") else ()
        uncommitted = self.store.blocks(record.file) if wanted in ("uncommitted", "all") else {}
        headers = {"x-ms-blob-content-length": str(record.size)} | (changed(record) if record.kind else {})
        return WebResponse(200, block_list(committed, uncommitted), headers, XML_TYPE)

    def put(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        """Keep a block."""
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
            demand_kind(record, BLOCK_BLOB)
        lease = record.lease.check_write(lease_id(request.headers), now)
        return replace(record, lease=lease)

    def put_list(self, request: WebRequest, resource: Resource, now: float) -> WebResponse:
        """Make a blob of blocks; all or nothing."""
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
            content_type=content_type_of(request),
            content_md5=request.headers.get("x-ms-blob-content-md5", ""),
            metadata=metadata_of(request.headers),
        )
        record = self.store.touched(record, now)
        self.store.drop(old)
        return WebResponse(201, headers=changed(record) | {"content-md5": checksum})
