"""JSON from an untrusted source, read within bounds or refused.

Strategy: measure before parsing. The size is bounded first, then one linear pass counts nesting and
values outside strings, so that the recursive parser of the standard library only ever sees a small,
shallow text. Duplicate member names, non-integers, huge integers, and text that is not UTF-8 are
refused, because two readers that resolve them differently disagree about what was checked.

Kind: pure
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

MAX_INTEGER_DIGITS = 20  # 2**64 - 1 has 20 digits; no format we read has larger integers
# A string that never closes runs to the end of the text: matched in one go, or each quote in it would start a
# scan of its own and a megabyte of them would take hours. Possessive, for the same reason.
_STRING_OR_MARK = re.compile(r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)


class JsonRefused(ValueError):
    """The text is not JSON we accept.

    Args:
        message: what was seen and what was wanted, without any of the text's values.
        bomb: True when the text is well formed but made to exhaust the reader.
    """

    def __init__(self, message: str, *, bomb: bool = False) -> None:
        super().__init__(message)
        self.bomb = bomb


def load_object(
    data: bytes, *, max_bytes: int, max_depth: int = 16, max_values: int = 10_000
) -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        data: the text, UTF-8, at most `max_bytes` bytes, untrusted.
        max_bytes: bound of the size in bytes.
        max_depth: bound of nested objects and arrays.
        max_values: bound of the number of members and elements.

    Raises:
        JsonRefused: the text is out of bounds, is not JSON, or is not one object.
    """
    if len(data) > max_bytes:
        raise JsonRefused(f"{len(data)} bytes of JSON, wanted at most {max_bytes}", bomb=True)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise JsonRefused(f"byte {exc.start} is not UTF-8, wanted JSON in UTF-8") from exc
    _measure(text, max_depth, max_values)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_int=_small_integer,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
        # A lone surrogate (from \ud800) is legal JSON but no text: nothing could write it back.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as exc:
        raise JsonRefused(f"no JSON at character {exc.pos}, {exc.msg.lower()}") from exc
    except UnicodeEncodeError as exc:
        raise JsonRefused("a string holds half of a surrogate pair, wanted Unicode text") from exc
    if not isinstance(value, dict):
        raise JsonRefused(f"JSON {type(value).__name__}, wanted one object")
    return value


def _measure(text: str, max_depth: int, max_values: int) -> None:
    depth = values = 0
    for match in _STRING_OR_MARK.finditer(text):
        mark = match.group()
        if mark in "[{":
            depth += 1
            values += 1
        elif mark in "]}":
            depth -= 1
        elif mark == ",":
            values += 1
        if depth > max_depth:
            raise JsonRefused(f"JSON nested deeper than {max_depth} levels", bomb=True)
        if values > max_values:
            raise JsonRefused(f"more than {max_values} JSON values", bomb=True)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise JsonRefused(f"member {name[:40]!a} appears twice, wanted unique names")
        found[name] = value
    return found


def _small_integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise JsonRefused(
            f"an integer of {len(digits)} digits, wanted at most {MAX_INTEGER_DIGITS}", bomb=True
        )
    return int(digits)


def _no_float(text: str) -> NoReturn:
    raise JsonRefused(f"number {text[:40]!a}, wanted an integer")
