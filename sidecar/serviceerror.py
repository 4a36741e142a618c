"""The error body that attestation authority, vault and managed HSM share.

Strategy: build it exactly, read it leniently. A service in trouble may answer with HTML or nothing at all;
reading an error must never hide it behind a second one, so a body that does not parse becomes empty fields.

Spec: Azure REST guidelines, error response; `{"error":{"code","message","innererror":{"code"}}}`.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.strictjson import JsonObject, dump_json, load_object

MAX_BODY = 64 << 10  # bytes read of an error
MAX_TEXT = 2000  # characters kept of a message


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What a service said about a refusal; all public, all untrusted, safe to print.

    Attributes:
        code: the service's word, e.g. `Forbidden`.
        message: its sentence, control characters removed, at most 2000 characters.
        inner_code: `innererror.code`, e.g. `ForbiddenByRbac`; empty where absent.
    """

    code: str = ""
    message: str = ""
    inner_code: str = ""


def parse_error_body(body: bytes) -> ErrorBody:
    """Read an error body; never raises, an unreadable one gives empty fields."""
    try:
        error = load_object(body, what="error body", max_bytes=MAX_BODY).get("error")
    except MalformedInput:
        return ErrorBody()
    if isinstance(error, str):  # the token endpoints' form: {"error": code, "error_description": text}
        text = load_object(body, max_bytes=MAX_BODY).get("error_description")
        return ErrorBody(_clean(error), _clean(text))
    if not isinstance(error, dict):
        return ErrorBody()
    inner = error.get("innererror")
    inner_code = inner.get("code") if isinstance(inner, dict) else None
    return ErrorBody(_clean(error.get("code")), _clean(error.get("message")), _clean(inner_code))


def build_error_body(error: ErrorBody) -> bytes:
    """Write an error body; `innererror` appears only with a code."""
    inside: JsonObject = {"code": error.code, "message": error.message}
    if error.inner_code:
        inside["innererror"] = {"code": error.inner_code}
    return dump_json({"error": inside})


def _clean(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in value[:MAX_TEXT])
