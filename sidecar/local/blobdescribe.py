"""What answers of the local blob service say of a blob, and small parts of requests.

Kind: pure
"""

from __future__ import annotations

import uuid

from sidecar.local.blobauth import VERSION
from sidecar.local.bloblease import INFINITE, LeaseState
from sidecar.local.blobrecord import PAGE_BLOB, BlobRecord
from sidecar.local.blobwire import date_text, etag_text, number, render_error
from sidecar.local.refusal import Refusal
from sidecar.web import WebRequest, WebResponse


def demand_kind(record: BlobRecord, kind: str) -> None:
    """Refuse an operation on a blob of another type."""
    if record.kind != kind:
        raise Refusal(409, "InvalidBlobType", "The blob type is invalid for this operation.")


def seconds_of(text: str) -> int:
    """A duration of a lease header: a number or -1."""
    return INFINITE if text == "-1" else number(text, "lease duration", 1 << 31)


def content_type_of(request: WebRequest) -> str:
    """What a request says its blob holds."""
    given = request.headers.get("x-ms-blob-content-type") or request.headers.get("content-type", "")
    return given if given.isprintable() and given else "application/octet-stream"


def common_headers() -> dict[str, str]:
    """On every answer."""
    return {"x-ms-request-id": str(uuid.uuid4()), "x-ms-version": VERSION}


def changed(record: BlobRecord) -> dict[str, str]:
    """When and to what a blob changed last."""
    return {"etag": etag_text(record.etag), "last-modified": date_text(record.modified)}


def sequence_of(record: BlobRecord) -> dict[str, str]:
    """The sequence number of a page blob."""
    return {"x-ms-blob-sequence-number": str(record.sequence)} if record.kind == PAGE_BLOB else {}


def described(record: BlobRecord, now: float) -> dict[str, str]:
    """What every answer that shows a blob says of it."""
    state = record.lease.state(now)
    headers = changed(record) | sequence_of(record)
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


def render(refusal: Refusal) -> WebResponse:
    """The error answer of a refusal."""
    return render_error(refusal).with_headers(common_headers())


def refuse(status: int, code: str, message: str) -> WebResponse:
    """An error answer for what never becomes a request."""
    return render(Refusal(status, code, message))
