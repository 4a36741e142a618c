"""The blob service's wire form: headers, page lists and errors, right ones and hostile ones."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encfs.block.blobcodec import (
    MAX_PUT,
    BlobKind,
    ErrorReply,
    check_body,
    check_range_reply,
    lease_headers,
    md5_text,
    parse_error,
    parse_page_list,
    parse_properties,
    parse_retry_after,
    put_page_headers,
    range_headers,
)
from encfs.block.blobfail import refusal
from encfs.errors import (
    AccessDenied,
    EncfsError,
    ImageBusy,
    ImageChanged,
    ImageMissing,
    LeaseLost,
    StoreError,
    StoreUnavailable,
    UnsuitableBlob,
)

GOOD = {
    "x-ms-blob-type": "PageBlob",
    "content-length": "1024",
    "etag": '"0x8D"',
    "x-ms-lease-state": "leased",
}


def test_properties() -> None:
    found = parse_properties(GOOD)
    assert (found.kind, found.size, found.etag, found.leased) == (BlobKind.PAGE, 1024, '"0x8D"', True)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"x-ms-blob-type": "AppendBlob"}, UnsuitableBlob),
        ({"x-ms-blob-type": ""}, UnsuitableBlob),
        ({"content-length": "-1"}, StoreError),
        ({"content-length": "٣"}, StoreError),
        ({"content-length": str(9 << 40)}, StoreError),
        ({"etag": ""}, StoreError),
        ({"etag": "x" * 300}, StoreError),
    ],
)
def test_properties_that_make_no_sense(change: dict[str, str], error: type[EncfsError]) -> None:
    with pytest.raises(error):
        parse_properties(GOOD | change)


def test_request_headers() -> None:
    assert range_headers(512, 1024) == {"x-ms-range": "bytes=512-1535"}
    assert "x-ms-range-get-content-md5" in range_headers(0, MAX_PUT, checked=True)
    assert "x-ms-range-get-content-md5" not in range_headers(0, MAX_PUT + 512, checked=True)
    # RFC 1321, the digest of the empty message, in base64.
    assert md5_text(b"") == "1B2M2Y8AsgTpgAmY7PhCfg=="
    assert put_page_headers(0, memoryview(b"x" * 512))["x-ms-range"] == "bytes=0-511"
    assert lease_headers("acquire", lease_id="i", seconds=60)["x-ms-lease-duration"] == "60"
    assert lease_headers("break") == {"x-ms-lease-action": "break", "x-ms-lease-break-period": "0"}
    assert lease_headers("renew", lease_id="i")["x-ms-lease-id"] == "i"


@pytest.mark.parametrize(
    "seen", ["", "bytes 0-511/2048", "bytes 1-512/1024", "bytes 0-1023/1024", "0-511/1024"]
)
def test_another_range_than_asked_for(seen: str) -> None:
    check_range_reply({"content-range": "bytes 0-511/1024"}, 0, 512, 1024)
    with pytest.raises(StoreError, match="wanted bytes 0-511/1024"):
        check_range_reply({"content-range": seen}, 0, 512, 1024)


def test_a_body_that_was_changed_on_the_way() -> None:
    check_body({}, b"x")
    check_body({"content-md5": md5_text(b"x")}, b"x")
    with pytest.raises(StoreError, match="MD5"):
        check_body({"content-md5": md5_text(b"x")}, b"y")


def page_list(*ranges: tuple[int, int], more: str = "") -> bytes:
    inside = "".join(f"<PageRange><Start>{a}</Start><End>{b}</End></PageRange>" for a, b in ranges)
    return f'\ufeff<?xml version="1.0" encoding="utf-8"?><PageList>{inside}{more}</PageList>'.encode()


def test_page_lists() -> None:
    assert parse_page_list(page_list(), 1024).ranges == ()
    assert parse_page_list(page_list((0, 511), (1024, 2047)), 4096).ranges == ((0, 512), (1024, 2048))
    assert parse_page_list(page_list((512, 4095)), 1024).ranges == ((512, 1024),)
    clear = "<ClearRange><Start>0</Start><End>511</End></ClearRange><NextMarker>m1</NextMarker>"
    assert parse_page_list(page_list((0, 511), more=clear), 1024).marker == "m1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<PageList>",
        page_list((512, 511)),
        page_list((1024, 2047)),
        page_list((-1, 511)),
        page_list(more="<PageRange><Start>0</Start></PageRange>"),
        page_list(more="<PageRange><End>0</End></PageRange>"),
        page_list(more="<PageRange><Start>0</Start><Start>0</Start><End>5</End></PageRange>"),
        b'<!DOCTYPE x [<!ENTITY a "0">]><PageList><Start>&a;</Start></PageList>',
        b'<?xml version="1.0" encoding="klingon"?><PageList/>',
        b"\xff\xfe\x00",
    ],
)
def test_page_lists_that_make_no_sense(body: bytes) -> None:
    with pytest.raises(StoreError):
        parse_page_list(body, 1024)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_parser_fail_in_another_way(body: bytes) -> None:
    parse_error(500, {}, body)
    with contextlib.suppress(StoreError):
        parse_page_list(body, 1024)


def test_errors_are_read_from_header_and_body() -> None:
    body = (
        b"<Error><Code>BlobNotFound</Code><Message>The specified blob\n does not exist.\x01</Message></Error>"
    )
    assert parse_error(404, {}, body.replace(b"\x01", b"")) == ErrorReply(
        404, "BlobNotFound", "The specified blob does not exist."
    )
    assert parse_error(404, {"x-ms-error-code": "BlobNotFound"}, b"").code == "BlobNotFound"
    assert parse_error(502, {}, b"<html>bad gateway") == ErrorReply(502, "", "")
    assert parse_error(400, {"x-ms-error-code": "<script>"}, b"").code == ""


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "NoAuthenticationInformation", AccessDenied),
        (403, "AuthorizationPermissionMismatch", AccessDenied),
        (409, "PublicAccessNotPermitted", AccessDenied),
        (404, "ContainerNotFound", ImageMissing),
        (409, "LeaseAlreadyPresent", ImageBusy),
        (412, "LeaseIdMissing", ImageBusy),
        (412, "LeaseIdMismatchWithBlobOperation", LeaseLost),
        (412, "LeaseLost", LeaseLost),
        (409, "LeaseIdMismatchWithLeaseOperation", LeaseLost),
        (412, "ConditionNotMet", ImageChanged),
        (412, "SequenceNumberConditionNotMet", ImageChanged),
        (503, "ServerBusy", StoreUnavailable),
        (500, "OperationTimedOut", StoreUnavailable),
        (429, "", StoreUnavailable),
        (400, "Md5Mismatch", StoreUnavailable),
        (416, "InvalidPageRange", StoreError),
    ],
)
def test_every_answer_has_its_error(status: int, code: str, error: type[EncfsError]) -> None:
    found = refusal(ErrorReply(status, code, "words"), "host/c/b", doing="writing", retry_after=2)
    assert type(found) is error
    assert str(found).startswith(f"image host/c/b: writing: status {status}")
    assert found.hint or error is StoreError
    if isinstance(found, StoreUnavailable) and status != 400:
        assert found.retry_after == 2


def test_retry_after() -> None:
    assert parse_retry_after({"retry-after": "7"}) == 7
    for text in ("", "soon", "-1", "Wed, 21 Oct 2030 07:28:00 GMT", "99999999999"):
        assert parse_retry_after({"retry-after": text}) is None
