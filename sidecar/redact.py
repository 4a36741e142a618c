"""Secrets kept out of the log at the one place every record passes: the formatter.

Strategy: whatever a call site, a library or a traceback puts into a record is searched for what secrets look
like (tokens, signatures of URLs, private members of keys, private key blocks), and for the exact values that
the program was given.

Rules: this is the second line. Nobody is allowed to log a secret because of it; raw key bytes in hexadecimal
look like digests, which must stay readable, so only given values of that form are found. Control characters
of a message are replaced and its further lines are indented: nothing from outside can imitate a record.

Kind: pure
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

MARK = "<redacted>"
# Shorter values are words; replacing them would damage text and hide nothing.
MIN_KNOWN = 8

_MEMBERS = (
    "k|d|p|q|dp|dq|qi|access_token|refresh_token|id_token|bearer_token|client_secret|client_assertion|"
    "raw_key|optsdata|symmetric_key|password"
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL), MARK),
    # A JOSE header is a JSON object, and every object starts with these three characters in base64.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_=-]+(?:\.[A-Za-z0-9_=-]*)*"), MARK),
    (re.compile(r"(?i)\b(bearer|pop|sharedkey)\s+(?=\S*[\d._=-])[A-Za-z0-9._~+/=:-]{8,}"), rf"\1 {MARK}"),
    (re.compile(r"(?i)([?&](?:sig|code|client_assertion)=)[^&\s\"']+"), rf"\1{MARK}"),
    # JSON, JSON inside a JSON string, and the repr of a dictionary.
    (
        re.compile(rf"((?:\\?[\"'])(?:{_MEMBERS})\\?[\"']\s*:\s*b?\\?[\"'])[^\"'\\]+"),
        rf"\1{MARK}",
    ),
)
# Tabs and newlines are dealt with apart.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def redact(text: str, known: Iterable[str] = ()) -> str:
    """Text with everything replaced that looks like a secret, or is one of `known`."""
    for value in known:
        if len(value) >= MIN_KNOWN:
            text = text.replace(value, MARK)
    for pattern, mark in _PATTERNS:
        text = pattern.sub(mark, text)
    return text


class RedactingFormatter(logging.Formatter):
    """A formatter that redacts the whole record, its traceback included.

    Args:
        format: as `logging.Formatter`.
        known: values that must never appear, secret.
    """

    def __init__(self, format: str, *, known: Iterable[str] = ()) -> None:
        super().__init__(format)
        # The longest first: a value may contain another one.
        self._known = sorted(known, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        text = redact(super().format(record), self._known)
        return _CONTROL.sub("?", text).replace("\n", "\n    ")
