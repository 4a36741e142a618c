"""JSON from outside, read strictly: bounded, no duplicate members, no numbers that are not numbers.

Strategy: the standard parser does the work; hooks refuse what it would let pass (a duplicate member, where
two readers of one document may see two different values; NaN and Infinity; numbers too long to be honest),
and one walk over the result bounds the depth and refuses strings that cannot be written back as UTF-8.

The typed getters below turn "the member has another type" into the one error that every codec raises.

Kind: pure
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn

from sidecar.errors import MalformedInput

MAX_DOCUMENT = 1 << 20  # bytes; no message of these protocols comes near it
MAX_DEPTH = 32
# The largest double written out has 309 digits; members that nobody reads may hold one. The language's own
# bound, where reading a number becomes slow, is ten times that.
MAX_NUMBER_DIGITS = 400

JsonObject = dict[str, object]


def load_json(
    data: bytes | str, *, what: str = "document", max_bytes: int = MAX_DOCUMENT, max_depth: int = MAX_DEPTH
) -> object:
    """Read one JSON document.

    Args:
        data: the document, UTF-8 when bytes; may be secret (it never reaches an error text).
        what: the words that name the document in errors.
        max_bytes: longest document accepted, bytes.
        max_depth: deepest nesting accepted.

    Returns:
        dict, list, str, int, float, bool or None.

    Raises:
        MalformedInput: too long, too deep, not UTF-8, not JSON, duplicate members, NaN, over-long numbers.

    Spec: RFC 8259; RFC 7515 section 10.12 (duplicate members).
    """
    if len(data) > max_bytes:
        raise MalformedInput(f"{what}: {len(data)} bytes, at most {max_bytes} are accepted")
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError as exc:
        raise MalformedInput(f"{what}: not UTF-8 at byte {exc.start}") from None
    try:
        value: object = json.loads(
            text,
            object_pairs_hook=_unique_members,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            parse_float=_bounded_float,
        )
    except json.JSONDecodeError as exc:
        # The exception carries the document, which may be secret: only the position goes on.
        raise MalformedInput(f"{what}: not JSON: {exc.msg.lower()} at character {exc.pos}") from None
    except _Refused as exc:
        raise MalformedInput(f"{what}: {exc}") from None
    except RecursionError:
        raise MalformedInput(f"{what}: nested more than {max_depth} levels deep") from None
    _check_tree(value, what, max_depth)
    return value


def load_object(data: bytes | str, *, what: str = "document", max_bytes: int = MAX_DOCUMENT) -> JsonObject:
    """Read one JSON document that must be an object; raises MalformedInput as `load_json` does."""
    return as_object(load_json(data, what=what, max_bytes=max_bytes), what)


def dump_json(value: object) -> bytes:
    """Write compact JSON, UTF-8, members in the order given; NaN is refused by ValueError (a bug of ours)."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def as_object(value: object, what: str) -> JsonObject:
    """The value as a JSON object; MalformedInput otherwise."""
    if not isinstance(value, dict):
        _wrong(what, value, "an object")
    return value


def as_list(value: object, what: str, *, max_items: int = 64) -> list[object]:
    """The value as a JSON array of bounded length; MalformedInput otherwise."""
    if not isinstance(value, list):
        _wrong(what, value, "an array")
    if len(value) > max_items:
        raise MalformedInput(f"{what}: {len(value)} items, at most {max_items} are accepted")
    return value


def as_text(value: object, what: str, *, max_length: int = MAX_DOCUMENT) -> str:
    """The value as a string of bounded length; MalformedInput otherwise."""
    if not isinstance(value, str):
        _wrong(what, value, "a string")
    if len(value) > max_length:
        raise MalformedInput(f"{what}: {len(value)} characters, at most {max_length} are accepted")
    return value


def as_int(value: object, what: str) -> int:
    """The value as an integer (true and false are none); MalformedInput otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        _wrong(what, value, "an integer")
    return value


def as_bool(value: object, what: str) -> bool:
    """The value as true or false; MalformedInput otherwise."""
    if not isinstance(value, bool):
        _wrong(what, value, "true or false")
    return value


def member(obj: Mapping[str, object], name: str, what: str) -> object:
    """A member that must be there; MalformedInput otherwise."""
    if name not in obj:
        raise MalformedInput(f"{what}: member {name!r} is missing")
    return obj[name]


def text_member(obj: Mapping[str, object], name: str, what: str, *, max_length: int = MAX_DOCUMENT) -> str:
    """A string member that must be there; MalformedInput otherwise."""
    return as_text(member(obj, name, what), f"{what}: member {name!r}", max_length=max_length)


def optional_text(obj: Mapping[str, object], name: str, what: str) -> str | None:
    """A string member; None where it is absent or null; MalformedInput for another type."""
    value = obj.get(name)
    return None if value is None else as_text(value, f"{what}: member {name!r}")


def object_member(obj: Mapping[str, object], name: str, what: str) -> JsonObject:
    """An object member that must be there; MalformedInput otherwise."""
    return as_object(member(obj, name, what), f"{what}: member {name!r}")


class _Refused(ValueError):
    """Something valid for the standard parser and refused here; carries the sentence."""


def _wrong(what: str, value: object, wanted: str) -> NoReturn:
    # The type is named, never the value: it may be secret.
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    raise MalformedInput(f"{what}: is {names.get(type(value), 'a number')}, wanted {wanted}")


def _unique_members(pairs: list[tuple[str, object]]) -> JsonObject:
    found: JsonObject = {}
    for name, value in pairs:
        if name in found:
            raise _Refused(f"member {name[:64]!r} appears twice")
        found[name] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not a JSON number")


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise _Refused(f"a number of {len(digits)} digits, at most {MAX_NUMBER_DIGITS} are accepted")
    return int(digits)


def _bounded_float(digits: str) -> float:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise _Refused(f"a number of {len(digits)} digits, at most {MAX_NUMBER_DIGITS} are accepted")
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _Refused("a number too large for a double")
    return value


def _check_tree(root: object, what: str, max_depth: int) -> None:
    pending: list[tuple[object, int]] = [(root, 0)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, str):
            _check_text(value, what)
        elif isinstance(value, dict | list):
            if depth >= max_depth:
                raise MalformedInput(f"{what}: nested more than {max_depth} levels deep")
            if isinstance(value, dict):
                pending.extend((key, depth) for key in value)
            children = value.values() if isinstance(value, dict) else value
            pending.extend((child, depth + 1) for child in children)


def _check_text(value: str, what: str) -> None:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise MalformedInput(f"{what}: a string holds half of a surrogate pair") from None
