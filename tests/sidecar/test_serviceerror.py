"""Error bodies: what services send, and that nothing they send can hurt the reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.serviceerror import ErrorBody, build_error_body, parse_error_body


@pytest.mark.parametrize(
    "error",
    [
        ErrorBody("Forbidden", "no", "ForbiddenByRbac"),
        ErrorBody("BadParameter", "AKV.SKR.1004: Exportable keys must have release policy."),
    ],
)
def test_round_trip(error: ErrorBody) -> None:
    assert parse_error_body(build_error_body(error)) == error


def test_member_order_is_the_services() -> None:
    body = build_error_body(ErrorBody("C", "m", "i"))
    assert body == b'{"error":{"code":"C","message":"m","innererror":{"code":"i"}}}'


def test_token_endpoint_form() -> None:
    body = b'{"error":"invalid_request","error_description":"Identity not found"}'
    assert parse_error_body(body) == ErrorBody("invalid_request", "Identity not found")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"error":null}',
        b'{"error":[]}',
        b'{"error":{"code":5,"message":{}}}',
        b"\xff",
    ],
)
def test_anything_else_is_empty(body: bytes) -> None:
    assert parse_error_body(body) == ErrorBody()


@given(st.binary(max_size=100))
def test_never_raises(body: bytes) -> None:
    parse_error_body(body)


def test_terminal_sequences_and_length() -> None:
    hostile = "\x1b[2J\r\nfake log line" + "x" * 5000
    seen = parse_error_body(build_error_body(ErrorBody("C\x00", hostile))).message
    assert seen.isprintable()
    assert len(seen) == 2000
