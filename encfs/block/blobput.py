"""Makes blobs: what an upload asks of the store, one method a request, each repeated while that may help.

All of it is safe to repeat: pages and blocks have their place and content, and only one answer of a creation
can have made the blob (the mark in it is ours).

Spec: Azure Storage REST, Put Blob, Put Page, Put Block, Put Block List, Get Block List, Set Blob Metadata.

Kind: adapter
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from encfs.block.blobcodec import (
    MAX_BLOCK_LIST,
    MAX_PAGE_LIST,
    BlobKind,
    BlobProperties,
    build_block_list,
    create_page_blob_headers,
    md5_text,
    parse_block_list,
    parse_page_list,
    parse_properties,
    put_page_headers,
)
from encfs.block.blobhttp import BlobHttp
from encfs.block.device import Buffer
from encfs.block.retry import retried
from encfs.errors import ImageMissing


class BlobPut:
    """Requests that make one blob.

    Args:
        http: requests to it.
        lease_id: that we hold on it; empty for none.
    """

    def __init__(self, http: BlobHttp, lease_id: str = "") -> None:
        self.http = http
        self._lease = {"x-ms-lease-id": lease_id} if lease_id else {}

    async def look(self) -> BlobProperties | None:
        """What is there now; None for nothing."""
        try:
            reply = await retried(lambda: self.http.send("HEAD", headers=self._lease, doing="looking at it"))
        except ImageMissing as exc:
            if "ContainerNotFound" in str(exc):
                raise
            return None
        return parse_properties(reply.headers)

    async def create_pages(self, size: int, *, upload: str, replace: bool) -> None:
        """An empty page blob of `size` bytes with the mark `upload`.

        Raises:
            StoreError: there is one already, and `replace` is not set.
            ImageBusy: it is to be replaced, but another has its lease.
        """
        headers = create_page_blob_headers(size, upload=upload, replace=replace) | self._lease
        await retried(lambda: self.http.send("PUT", headers=headers, doing="creating it"))

    async def put_pages(self, offset: int, data: Buffer) -> None:
        """Write whole pages, at most 4 MiB."""
        headers = put_page_headers(offset, data) | self._lease
        doing = f"writing {len(data)} bytes at {offset}"
        await retried(lambda: self.http.send("PUT", "comp=page", headers=headers, doing=doing, body=data))

    async def pages(self, size: int) -> list[tuple[int, int]]:
        """Ranges written so far, sorted, as start and end (exclusive)."""
        found: list[tuple[int, int]] = []
        query = "comp=pagelist"
        while True:
            reply = await retried(
                lambda query=query: self.http.send(  # type: ignore[misc]
                    "GET", query, headers=self._lease, doing="listing its pages", max_body=MAX_PAGE_LIST
                )
            )
            part = parse_page_list(reply.body, size)
            found += part.ranges
            if not part.marker:
                return sorted(found)
            query = f"comp=pagelist&marker={quote(part.marker, safe='')}"

    async def put_block(self, name: str, data: Buffer) -> None:
        """Keep a block; `name` in base64."""
        query = f"comp=block&blockid={quote(name, safe='')}"
        headers = {"content-md5": md5_text(data)} | self._lease
        doing = f"sending a block of {len(data)} bytes"
        await retried(lambda: self.http.send("PUT", query, headers=headers, doing=doing, body=data))

    async def blocks(self) -> dict[str, int]:
        """Blocks that were sent and not committed, with their lengths."""
        query = "comp=blocklist&blocklisttype=uncommitted"
        try:
            reply = await retried(
                lambda: self.http.send(
                    "GET", query, headers=self._lease, doing="listing its blocks", max_body=MAX_BLOCK_LIST
                )
            )
        except ImageMissing:
            return {}
        return parse_block_list(reply.body)

    async def commit(self, blocks: Sequence[str], *, md5: str, replace: bool) -> None:
        """Make a block blob of blocks.

        Raises:
            StoreError: there is one already, and `replace` is not set.
        """
        headers = {"x-ms-blob-content-md5": md5} | self._lease
        headers |= {} if replace else {"if-none-match": "*"}
        body = build_block_list(blocks)
        await retried(
            lambda: self.http.send("PUT", "comp=blocklist", headers=headers, doing="committing", body=body)
        )

    async def finish(self) -> None:
        """Take the mark away: the upload is complete."""
        await retried(
            lambda: self.http.send("PUT", "comp=metadata", headers=self._lease, doing="taking its mark away")
        )


__all__ = ["BlobKind", "BlobPut"]
