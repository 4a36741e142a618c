"""The wire form of the local blob service: conditions, ranges, headers and XML.

Rules: what a request says and does not parse is refused with the service's own word; nothing is guessed.

Spec: Azure Storage REST, Specifying conditional headers; Specifying the range header; Get Page Ranges; Put
Block List; Get Block List; Status and error codes.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from xml.parsers import expat
from xml.sax.saxutils import escape

from sidecar.local.refusal import Refusal
from sidecar.web import WebResponse

XML_TYPE = "application/xml"
PAGE = 512
MAX_PUT_PAGE = 4 << 20
MAX_RANGE_MD5 = 4 << 20
MAX_BLOCKS = 50_000
_RANGE = re.compile(r"bytes=([0-9]{1,19})-([0-9]{0,19})")
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# The word of a status that a fault script asks for without naming one.
_USUAL = {412: "ConditionNotMet", 429: "TooManyRequests", 500: "InternalError", 503: "ServerBusy"}


# -- requests -------------------------------------------------------------------------------------


def parse_range(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of the range asked for; None for everything.

    Raises:
        Refusal: 416 when it starts after the end.
    """
    match = _RANGE.fullmatch(headers.get("x-ms-range") or headers.get("range", ""))
    if match is None:
        return None
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if start >= size or end <= start:
        message = "The range specified is invalid for the current size of the resource."
        raise Refusal(416, "InvalidRange", message, headers={"content-range": f"bytes */{size}"})
    return start, end


def parse_page_range(headers: Mapping[str, str], size: int) -> tuple[int, int]:
    """Start and end (exclusive) of a page write: whole pages inside the blob.

    Raises:
        Refusal: 400 without a range, 416 for any other than wanted.
    """
    text = headers.get("x-ms-range") or headers.get("range", "")
    match = _RANGE.fullmatch(text)
    if match is None or not match[2]:
        raise Refusal(400, "MissingRequiredHeader", "x-ms-range: wanted bytes=FIRST-LAST")
    start, end = int(match[1]), int(match[2]) + 1
    if start % PAGE or end % PAGE or end <= start or end > size:
        raise Refusal(416, "InvalidPageRange", "The page range specified is invalid.")
    return start, end


def check_conditions(headers: Mapping[str, str], etag: str | None, modified: float, *, reading: bool) -> None:
    """If-Match and its kin.

    Args:
        etag: of the blob; None when there is none.
        modified: Unix seconds.
        reading: an unfulfilled If-None-Match is then 304.

    Raises:
        Refusal: 412 ConditionNotMet, or 304.
    """
    missed = Refusal(
        412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met."
    )
    if (wanted := headers.get("if-match")) is not None and (etag is None or wanted not in ("*", etag)):
        raise missed
    if (
        (unwanted := headers.get("if-none-match")) is not None
        and etag is not None
        and unwanted in ("*", etag)
    ):
        if not reading and unwanted == "*":
            raise Refusal(409, "BlobAlreadyExists", "The specified blob already exists.")
        raise Refusal(304, "ConditionNotMet", "") if reading else missed
    second = int(modified)
    if (since := _date(headers, "if-unmodified-since")) is not None and second > since:
        raise missed
    if (since := _date(headers, "if-modified-since")) is not None and second <= since:
        raise Refusal(304, "ConditionNotMet", "") if reading else missed


def check_sequence(headers: Mapping[str, str], sequence: int) -> None:
    """The conditions on a page blob's sequence number; 412 when one is not met."""
    tests = {"le": sequence.__le__, "lt": sequence.__lt__, "eq": sequence.__eq__}
    for name, test in tests.items():
        text = headers.get(f"x-ms-if-sequence-number-{name}")
        if text is not None and test(number(text, f"x-ms-if-sequence-number-{name}", 1 << 63)) is not True:
            raise Refusal(412, "SequenceNumberConditionNotMet", "The sequence number condition was not met.")


def check_md5(headers: Mapping[str, str], body: bytes) -> str:
    """Hold a body against its Content-MD5; the MD5 as a header says it.

    Raises:
        Refusal: another one, or a checksum of a kind that is not known here.
    """
    if "x-ms-content-crc64" in headers:
        raise Refusal(400, "UnsupportedHeader", "x-ms-content-crc64 is not known here, use Content-MD5")
    seen = md5_text(body)
    if (given := headers.get("content-md5")) and not hmac.compare_digest(given.encode(), seen.encode()):
        raise Refusal(
            400, "Md5Mismatch", "The MD5 value specified did not match the value calculated by the server."
        )
    return seen


def md5_text(body: bytes) -> str:
    """Content-MD5; a checksum of the service's choice, no security rests on it."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def number(text: str, what: str, limit: int) -> int:
    """A header's number; 400 for anything else."""
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > limit:
        raise Refusal(400, "InvalidHeaderValue", f"{what}: wanted a number up to {limit}")
    return int(text)


def lease_id(headers: Mapping[str, str], name: str = "x-ms-lease-id") -> str:
    """A lease identifier in lower case, empty for none; 400 for what is no GUID."""
    text = headers.get(name, "").lower()
    if text and not _GUID.fullmatch(text):
        raise Refusal(400, "InvalidHeaderValue", f"{name}: not a GUID")
    return text


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What `x-ms-meta-` headers say."""
    found = {n.removeprefix("x-ms-meta-"): v for n, v in headers.items() if n.startswith("x-ms-meta-")}
    if sum(len(name) + len(value) for name, value in found.items()) > 8192:
        raise Refusal(400, "MetadataTooLarge", "more than 8 KiB of metadata")
    return found


def block_name(text: str) -> str:
    """A block's identifier from the query or a list, as hex; 400 for what is no base64."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not 1 <= len(raw) <= 64:
        raise Refusal(400, "InvalidQueryParameterValue", "blockid: wanted base64 of 1 to 64 bytes")
    return raw.hex()


def parse_block_list(body: bytes) -> list[tuple[str, str]]:
    """Where to look (Latest, Committed, Uncommitted) and which block, in order.

    Raises:
        Refusal: 400 when it is not such a list.
    """
    found: list[tuple[str, str]] = []
    text: list[str] = []
    parser = expat.ParserCreate()

    def end(name: str) -> None:
        if name in ("Latest", "Committed", "Uncommitted"):
            found.append((name, block_name("".join(text).strip())))
        text.clear()

    def refuse(*_: object) -> None:
        raise Refusal(400, "InvalidXmlDocument", "a document type is not allowed")

    parser.StartElementHandler = lambda name, attributes: text.clear()
    parser.CharacterDataHandler = text.append
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError):
        raise Refusal(400, "InvalidXmlDocument", "XML specified is not syntactically valid.") from None
    if len(found) > MAX_BLOCKS:
        raise Refusal(400, "BlockListTooLong", f"more than {MAX_BLOCKS} blocks")
    return found


def _date(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        raise Refusal(400, "InvalidHeaderValue", f"{name}: not a date") from None


# -- answers --------------------------------------------------------------------------------------


def date_text(seconds: float) -> str:
    """A time as HTTP writes it."""
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)


def etag_text(value: int) -> str:
    """An ETag with its quotes."""
    return f'"0x{value:X}"'


def page_list(ranges: Iterable[tuple[int, int]]) -> bytes:
    """The answer to Get Page Ranges; ends are inclusive on the wire."""
    parts = (f"<PageRange><Start>{a}</Start><End>{b - 1}</End></PageRange>" for a, b in ranges)
    return _xml(f"<PageList>{''.join(parts)}</PageList>")


def block_list(committed: Sequence[tuple[str, int]], uncommitted: Mapping[str, int]) -> bytes:
    """The answer to Get Block List."""
    both = {"CommittedBlocks": list(committed), "UncommittedBlocks": list(uncommitted.items())}
    parts = []
    for name, blocks in both.items():
        inside = "".join(
            f"<Block><Name>{base64.b64encode(bytes.fromhex(block)).decode()}</Name><Size>{size}</Size></Block>"
            for block, size in blocks
        )
        parts.append(f"<{name}>{inside}</{name}>")
    return _xml(f"<BlockList>{''.join(parts)}</BlockList>")


def render_error(refusal: Refusal) -> WebResponse:
    """The service's error body."""
    code = _USUAL.get(refusal.status, refusal.code) if refusal.code == "InternalServerError" else refusal.code
    headers = {"x-ms-error-code": code} | refusal.headers
    if refusal.status == 304:
        return WebResponse(304, b"", headers)
    body = _xml(f"<Error><Code>{escape(code)}</Code><Message>{escape(refusal.message)}</Message></Error>")
    return WebResponse(refusal.status, body, headers, XML_TYPE)


def _xml(text: str) -> bytes:
    return f'<?xml version="1.0" encoding="utf-8"?>{text}'.encode()
