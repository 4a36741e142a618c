"""What template functions ask of their arguments.

Kind: pure
"""

from __future__ import annotations

import json

from sidecar.policy.arm_values import kind

MAX_COMPARED = 1024  # items of an array that is compared with all of another
MAX_RESULT = 1 << 20  # characters or items of one result; a template itself is at most 4 MiB
_INT64 = 1 << 63


class Refused(ValueError):
    """Arguments that a function does not take; carries the words."""


def text_of(value: object) -> str:
    if not isinstance(value, str):
        raise Refused(f"{kind(value)}, wanted a string")
    return value


def int_of(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(f"{kind(value)}, wanted a number")
    return value


def bool_of(value: object) -> bool:
    if not isinstance(value, bool):
        raise Refused(f"{kind(value)}, wanted true or false")
    return value


def list_of(value: object) -> list[object]:
    if not isinstance(value, list):
        raise Refused(f"{kind(value)}, wanted an array")
    return value


def dict_of(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Refused(f"{kind(value)}, wanted an object")
    return value


def short_list(value: object) -> list[object]:
    if len(list_of(value)) > MAX_COMPARED:
        raise Refused(f"an array of {len(list_of(value))} items, at most {MAX_COMPARED} are accepted")
    return list_of(value)


def bounded(count: int) -> int:
    if count > MAX_RESULT:
        raise Refused(f"a result of {count}, at most {MAX_RESULT} are accepted")
    return count


def int64(value: int) -> int:
    if not -_INT64 <= value < _INT64:
        raise Refused("the result has more than 64 bits")
    return value


def to_text(value: object) -> str:
    """A value as `string`, `concat` and `format` write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "True" if value else "False"
    return "" if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
