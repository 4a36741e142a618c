"""The local blob service's wire form: ranges, conditions, lists; and HEAD through the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fakes.localcloud import Client

from sidecar.local.blobwire import (
    block_list,
    block_name,
    check_conditions,
    check_md5,
    check_sequence,
    date_text,
    etag_text,
    lease_id,
    md5_text,
    page_list,
    parse_block_list,
    parse_page_range,
    parse_range,
    render_error,
)
from sidecar.local.refusal import Refusal

ETAG, MODIFIED = etag_text(0x8D), 1_700_000_000.9


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, None),
        ({"range": "bytes=0-0"}, (0, 1)),
        ({"range": "bytes=0-0", "x-ms-range": "bytes=512-"}, (512, 1000)),
        ({"range": "bytes=900-5000"}, (900, 1000)),
        ({"range": "bytes=-5"}, None),
        ({"range": "pages=1-2"}, None),
    ],
)
def test_ranges(headers: Mapping[str, str], wanted: tuple[int, int] | None) -> None:
    assert parse_range(headers, 1000) == wanted


@pytest.mark.parametrize("text", ["bytes=1000-", "bytes=1000-1001", "bytes=5-4"])
def test_ranges_outside(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_range({"range": text}, 1000)
    assert (caught.value.status, caught.value.code) == (416, "InvalidRange")


@pytest.mark.parametrize(
    ("text", "status"),
    [("bytes=0-510", 416), ("bytes=1-512", 416), ("bytes=512-1535", 416), ("", 400), ("bytes=0-", 400)],
)
def test_page_ranges(text: str, status: int) -> None:
    assert parse_page_range({"x-ms-range": "bytes=512-1023"}, 1024) == (512, 1024)
    with pytest.raises(Refusal) as caught:
        parse_page_range({"range": text}, 1024)
    assert caught.value.status == status


# Headers, whether a blob is there, whether it is a read -> status of the refusal, 0 for none.
CONDITIONS: list[tuple[dict[str, str], bool, bool, int]] = [
    ({}, True, False, 0),
    ({"if-match": ETAG}, True, False, 0),
    ({"if-match": "*"}, True, False, 0),
    ({"if-match": "*"}, False, False, 412),
    ({"if-match": '"0x1"'}, True, True, 412),
    ({"if-none-match": "*"}, False, False, 0),
    ({"if-none-match": "*"}, True, False, 409),
    ({"if-none-match": ETAG}, True, True, 304),
    ({"if-none-match": ETAG}, True, False, 412),
    ({"if-none-match": '"0x1"'}, True, True, 0),
    ({"if-unmodified-since": date_text(MODIFIED)}, True, False, 0),
    ({"if-unmodified-since": date_text(MODIFIED - 1)}, True, False, 412),
    ({"if-modified-since": date_text(MODIFIED - 1)}, True, True, 0),
    ({"if-modified-since": date_text(MODIFIED)}, True, True, 304),
    ({"if-modified-since": date_text(MODIFIED)}, True, False, 412),
    ({"if-modified-since": "yesterday"}, True, False, 400),
]


@pytest.mark.parametrize(("headers", "exists", "reading", "status"), CONDITIONS)
def test_conditions(headers: dict[str, str], exists: bool, reading: bool, status: int) -> None:
    etag = ETAG if exists else None
    if not status:
        check_conditions(headers, etag, MODIFIED, reading=reading)
        return
    with pytest.raises(Refusal) as caught:
        check_conditions(headers, etag, MODIFIED, reading=reading)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("name", "value", "met"), [("le", 6, False), ("le", 7, True), ("lt", 7, False), ("eq", 7, True)]
)
def test_sequence_numbers(name: str, value: int, met: bool) -> None:
    headers = {f"x-ms-if-sequence-number-{name}": str(value)}
    if met:
        check_sequence(headers, 7)
        return
    with pytest.raises(Refusal, match="SequenceNumberConditionNotMet"):
        check_sequence(headers, 7)


def test_checksums() -> None:
    assert check_md5({}, b"") == md5_text(b"") == "1B2M2Y8AsgTpgAmY7PhCfg=="
    with pytest.raises(Refusal, match="Md5Mismatch"):
        check_md5({"content-md5": md5_text(b"x")}, b"y")
    with pytest.raises(Refusal, match="UnsupportedHeader"):
        check_md5({"x-ms-content-crc64": "AAAAAAAAAAA="}, b"y")


def test_lists() -> None:
    assert page_list([(0, 512), (1024, 2048)]).endswith(
        b"<PageList><PageRange><Start>0</Start><End>511</End></PageRange>"
        b"<PageRange><Start>1024</Start><End>2047</End></PageRange></PageList>"
    )
    body = b"<BlockList><Latest>YQ==</Latest><Committed>Yg==</Committed></BlockList>"
    assert parse_block_list(body) == [("Latest", "61"), ("Committed", "62")]
    assert b"<Name>YQ==</Name><Size>7</Size>" in block_list([("61", 7)], {})
    for bad in (
        b"",
        b"<BlockList>",
        b"<!DOCTYPE x><BlockList/>",
        b"<BlockList><Latest>?</Latest></BlockList>",
    ):
        with pytest.raises(Refusal):
            parse_block_list(bad)


@pytest.mark.parametrize("text", ["", "?", "YQ", "A" * 200])
def test_names_of_blocks(text: str) -> None:
    with pytest.raises(Refusal):
        block_name(text)


def test_lease_identifiers() -> None:
    guid = "01234567-89AB-cdef-0123-456789abcdef"
    assert lease_id({"x-ms-lease-id": guid}) == guid.lower()
    with pytest.raises(Refusal, match="InvalidHeaderValue"):
        lease_id({"x-ms-lease-id": "mine"})


def test_errors() -> None:
    answer = render_error(Refusal(503, "InternalServerError", "a < b"))
    assert answer.headers["x-ms-error-code"] == "ServerBusy"
    assert b"<Message>a &lt; b</Message>" in answer.body
    assert render_error(Refusal(304, "ConditionNotMet", "")).body == b""


async def test_head_and_errors_over_the_wire(cloud: Client) -> None:
    token = {"authorization": f"Bearer {await cloud.access_token('https://storage.azure.com')}"}

    async def call(method: str, path: str, **options: Any) -> Any:
        options["headers"] = token | options.get("headers", {})
        return await cloud.call("blob", method, f"/local/images/{path}", **options)

    made = await call("PUT", "a/b c", headers={"x-ms-blob-type": "BlockBlob"}, content=b"x" * 1000)
    assert made.status_code == 201
    head = await call("HEAD", "a/b%20c")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "1000", b"")
    assert head.headers["x-ms-blob-type"] == "BlockBlob"
    missing = await call("HEAD", "none")
    assert (missing.status_code, missing.headers["x-ms-error-code"], missing.content) == (
        404,
        "BlobNotFound",
        b"",
    )
    for method, path, status in [
        ("GET", "none", 404),
        ("GET", "none?snapshot=1", 404),
        ("POST", "none", 404),
    ]:
        answer = await call(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/xml"
        assert answer.headers["x-ms-request-id"]
    other = await cloud.call("blob", "GET", "/other/images/x", headers=token)
    assert other.status_code == 404
