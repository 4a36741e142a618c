"""The blob service's wire form: request headers from values, values from answers. No I/O.

Rules: what does not parse raises; sizes and counts are bounded; header names are lower case. A page list is
XML from outside: a document type is refused, so no entity is ever expanded.

Spec: Azure Storage REST, Get Blob, Get Blob Properties, Put Page, Put Blob, Get Page Ranges, Lease Blob,
Status and error codes; version 2023-11-03.

Kind: pure
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from xml.parsers import expat

from encfs.block.device import Buffer
from encfs.errors import StoreError, UnsuitableBlob

API_VERSION = "2023-11-03"
PAGE = 512
MAX_PUT = 4 << 20  # largest Put Page in bytes
MAX_BLOB = 8 << 40
MAX_PAGE_LIST = 16 << 20
MAX_BLOCKS = 50_000
MAX_BLOCK_LIST = 16 << 20
UPLOAD_MARK = "x-ms-meta-encfsupload"
_MAX_ERROR = 64 << 10
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_WORD = re.compile(r"[A-Za-z0-9.-]{1,100}")

Headers = Mapping[str, str]


class BlobKind(StrEnum):
    """What `x-ms-blob-type` says."""

    PAGE = "PageBlob"
    BLOCK = "BlockBlob"


@dataclass(frozen=True, slots=True)
class BlobProperties:
    """What a store says of a blob.

    Attributes:
        size: bytes.
        etag: opaque, with its quotes.
        leased: somebody holds a lease.
        upload: mark of an upload that is not complete yet; empty for none.
        sequence: number of a page blob.
    """

    kind: BlobKind
    size: int
    etag: str
    leased: bool
    upload: str = ""
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class PageList:
    """Written ranges as start and end (exclusive) in bytes; `marker` is where the next part begins."""

    ranges: tuple[tuple[int, int], ...]
    marker: str = ""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error answer: status, the service's word and its sentence; public."""

    status: int
    code: str
    message: str

    def __str__(self) -> str:
        words = ": ".join(part for part in (self.code, self.message) if part)
        return f"status {self.status} {words}".strip()


# -- requests -------------------------------------------------------------------------------------


def range_headers(offset: int, length: int, *, checked: bool = False) -> dict[str, str]:
    """Ask for a range; `checked` asks for its MD5 too, which stores offer up to 4 MiB."""
    headers = {"x-ms-range": f"bytes={offset}-{offset + length - 1}"}
    if checked and length <= MAX_PUT:
        headers["x-ms-range-get-content-md5"] = "true"
    return headers


def put_page_headers(offset: int, data: Buffer) -> dict[str, str]:
    """Write a range of whole pages; the store checks the MD5 of what arrives."""
    return {
        "x-ms-page-write": "update",
        "x-ms-range": f"bytes={offset}-{offset + len(data) - 1}",
        "content-md5": md5_text(data),
    }


def create_page_blob_headers(size: int, *, upload: str, replace: bool) -> dict[str, str]:
    """Put Blob for an empty page blob of `size` bytes, marked as an upload that is not complete."""
    headers = {
        "x-ms-blob-type": str(BlobKind.PAGE),
        "x-ms-blob-content-length": str(size),
        UPLOAD_MARK: upload,
    }
    return headers if replace else headers | {"if-none-match": "*"}


def lease_headers(action: str, *, lease_id: str = "", seconds: int | None = None) -> dict[str, str]:
    """A lease action: acquire proposes `lease_id`, renew and release name it, break needs none."""
    headers = {"x-ms-lease-action": action}
    if action == "acquire":
        headers |= {"x-ms-proposed-lease-id": lease_id, "x-ms-lease-duration": str(seconds)}
    elif action == "break":
        headers["x-ms-lease-break-period"] = str(seconds or 0)
    else:
        headers["x-ms-lease-id"] = lease_id
    return headers


def md5_text(data: Buffer) -> str:
    """Content-MD5 of some bytes: a checksum of the service's choice, no security rests on it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


# -- answers --------------------------------------------------------------------------------------


def parse_properties(headers: Headers) -> BlobProperties:
    """Read the answer to Get Blob Properties.

    Raises:
        UnsuitableBlob: neither a page nor a block blob.
        StoreError: a header is missing or makes no sense.
    """
    kind = headers.get("x-ms-blob-type", "")
    if kind not in tuple(BlobKind):
        raise UnsuitableBlob(
            f"image: a blob of type {kind[:40] or 'unknown'}, wanted {BlobKind.PAGE} or {BlobKind.BLOCK}",
            hint="copy it into a page blob: encfs upload",
        )
    size = _number(headers.get("content-length", ""), MAX_BLOB)
    if size is None:
        raise StoreError(f"image: the store says size {headers.get('content-length', '')[:40]!r}")
    leased = headers.get("x-ms-lease-state", "") == "leased"
    sequence = _number(headers.get("x-ms-blob-sequence-number", "0"), (1 << 63) - 2)
    if sequence is None:
        raise StoreError("image: the store's sequence number makes no sense")
    mark = headers.get(UPLOAD_MARK, "")
    return BlobProperties(BlobKind(kind), size, parse_etag(headers), leased, mark, sequence)


def parse_etag(headers: Headers) -> str:
    """The ETag of an answer; StoreError when there is none."""
    etag = headers.get("etag", "")
    if not 1 <= len(etag) <= 256 or not etag.isprintable():
        raise StoreError("image: the store's answer has no ETag", hint="is it a blob service?")
    return etag


def check_range_reply(headers: Headers, offset: int, length: int, size: int) -> None:
    """Hold the headers of a partial answer against what was asked for.

    Raises:
        StoreError: another range, length or blob size.
    """
    seen = headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(seen)
    wanted = (offset, offset + length - 1, size)
    if match is None or tuple(int(group) for group in match.groups()) != wanted:
        raise StoreError(
            f"image: the store sent range {seen[:80]!r}, wanted bytes {wanted[0]}-{wanted[1]}/{size}"
        )


def check_body(headers: Headers, body: Buffer) -> None:
    """Hold a body against the MD5 that came with it, if any.

    Raises:
        StoreError: it was changed on the way.
    """
    offered = headers.get("content-md5")
    if offered is not None and not hmac.compare_digest(md5_text(body).encode(), offered.encode()):
        raise StoreError("image: the body's MD5 is not the one the store sent with it")


def parse_error(status: int, headers: Headers, body: bytes) -> ErrorReply:
    """Read an error answer; one that is no XML still yields its status and the header's code."""
    code = headers.get("x-ms-error-code", "")
    fields: dict[str, str] = {}
    if body and len(body) <= _MAX_ERROR:
        try:
            fields = dict(_leaves(body, frozenset({"Code", "Message"})))
        except StoreError:
            fields = {}
    code = code or fields.get("Code", "")
    message = " ".join(fields.get("Message", "").split())[:300]
    return ErrorReply(status, code if _WORD.fullmatch(code) else "", _printable(message))


def parse_retry_after(headers: Headers) -> float | None:
    """Seconds of a Retry-After header; None when absent or a date."""
    value = _number(headers.get("retry-after", ""), 24 * 3600)
    return None if value is None else float(value)


def parse_page_list(body: bytes, size: int) -> PageList:
    """Read the answer to Get Page Ranges.

    Args:
        body: XML, at most 16 MiB.
        size: of the blob in bytes.

    Raises:
        StoreError: not such a list, or a range outside the blob.
    """
    ranges: list[tuple[int, int]] = []
    marker, start = "", None
    for name, text in _leaves(body, frozenset({"Start", "End", "NextMarker"})):
        if name == "NextMarker":
            marker = text
            continue
        value = _number(text, MAX_BLOB)
        if value is None or (name == "Start") != (start is None):
            raise StoreError(f"image: page list: {name} {text[:40]!r} where none belongs")
        if start is None:
            start = value
            continue
        # A store may round the last page up past the end; never a start.
        if not start <= value or start >= size:
            raise StoreError(f"image: page list: range {start}-{value}, wanted inside {size} bytes")
        ranges.append((start, min(value + 1, size)))
        start = None
    if start is not None:
        raise StoreError("image: page list: ends within a range")
    return PageList(tuple(ranges), marker)


def build_block_list(blocks: Sequence[str]) -> bytes:
    """The body of Put Block List: names in base64, in order; the newest of each is taken."""
    inside = "".join(f"<Latest>{block}</Latest>" for block in blocks)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{inside}</BlockList>'.encode()


def parse_block_list(body: bytes) -> dict[str, int]:
    """Read the answer to Get Block List: lengths by name in base64.

    Raises:
        StoreError: not such a list.
    """
    found: dict[str, int] = {}
    name = ""
    for element, text in _leaves(body, frozenset({"Name", "Size"})):
        if element == "Name":
            name = text
            continue
        size = _number(text, MAX_BLOB)
        if size is None or not name:
            raise StoreError(f"image: block list: size {text[:40]!r} where none belongs")
        found[name], name = size, ""
    return found


def _leaves(body: bytes, wanted: frozenset[str]) -> list[tuple[str, str]]:
    """Name and text of the elements asked for, in order.

    Raises:
        StoreError: not well-formed XML, or with a document type.
    """
    found: list[tuple[str, str]] = []
    text: list[str] = []

    def begin(name: str, attributes: object) -> None:
        text.clear()

    def end(name: str) -> None:
        if name in wanted:
            found.append((name, "".join(text).strip()))
        text.clear()

    def refuse(*_: object) -> None:
        raise StoreError("image: the store's XML has a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as exc:
        raise StoreError(f"image: the store's XML does not parse: {expat.errors.messages[exc.code]}") from exc
    except (ValueError, LookupError) as exc:
        raise StoreError("image: the store's XML has an unknown encoding") from exc
    return found


def _number(text: str, limit: int) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) > limit:
        return None
    return int(text)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
