"""Template functions that depend on their arguments alone.

Strategy: one table from the name in lower case to a function of the values, with the number of arguments it
takes. What asks the cloud (`reference`, `listKeys`, `resourceGroup`), the clock or chance is not here: the
evaluator refuses it by name. `uniqueString` is refused too, its hash is not published.

Rules: a wrong type or number of arguments is an error that names the function; results are bounded.

Spec: Azure Resource Manager, "ARM template functions": array, comparison, logical, numeric, object, string.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin

from sidecar.errors import MalformedInput
from sidecar.policy.arm_values import find, kind
from sidecar.strictjson import load_json

MAX_COMPARED = 1024  # items of an array that is compared with all of another
MAX_RESULT = 1 << 20  # characters or items of one result; a template itself is at most 4 MiB
_INT64 = 1 << 63
# The name space of the `guid` function, from its documentation.
_GUID_NAMESPACE = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")


class Function(NamedTuple):
    """A function and how many arguments it takes."""

    run: Callable[..., object]
    least: int
    most: int


def call(name: str, values: list[object]) -> object:
    """Call one function; MalformedInput when it refuses its arguments."""
    function = FUNCTIONS[name.lower()]
    if not function.least <= len(values) <= function.most:
        wanted = str(function.least) if function.least == function.most else f"at least {function.least}"
        raise MalformedInput(f"function {name}: {len(values)} arguments, wanted {wanted}")
    try:
        result = function.run(*values)
    except _Refused as exc:
        raise MalformedInput(f"function {name}: {exc}") from None
    if isinstance(result, str | list | dict) and len(result) > MAX_RESULT:
        raise MalformedInput(f"function {name}: a result of {len(result)}, at most {MAX_RESULT} are accepted")
    return result


class _Refused(ValueError):
    """Arguments that a function does not take; carries the words."""


# -- what the functions ask of their arguments ----------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Refused(f"{kind(value)}, wanted a string")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Refused(f"{kind(value)}, wanted a number")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Refused(f"{kind(value)}, wanted true or false")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _Refused(f"{kind(value)}, wanted an array")
    return value


def _dict(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _Refused(f"{kind(value)}, wanted an object")
    return value


def _short(value: object) -> list[object]:
    if len(_list(value)) > MAX_COMPARED:
        raise _Refused(f"an array of {len(_list(value))} items, at most {MAX_COMPARED} are accepted")
    return _list(value)


def _bounded(count: int) -> int:
    if count > MAX_RESULT:
        raise _Refused(f"a result of {count}, at most {MAX_RESULT} are accepted")
    return count


def _int64(value: int) -> int:
    if not -_INT64 <= value < _INT64:
        raise _Refused("the result has more than 64 bits")
    return value


def to_text(value: object) -> str:
    """A value as `string`, `concat` and `format` write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "True" if value else "False"
    return "" if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# -- strings --------------------------------------------------------------------------------------


def _concat(*values: object) -> object:
    if all(isinstance(value, list) for value in values):
        _bounded(sum(len(_list(value)) for value in values))
        return [item for value in values for item in _list(value)]
    for value in values:
        if not isinstance(value, str | int):
            raise _Refused(f"{kind(value)}, wanted strings or arrays")
    texts = [to_text(value) for value in values]
    _bounded(sum(map(len, texts)))
    return "".join(texts)


_HOLE = re.compile(r"\{\{|\}\}|\{(?P<index>[0-9]{1,4})(?P<rest>[^{}]*)\}|[{}]")


def _format(template: object, *values: object) -> str:
    size = 0

    def fill(match: re.Match[str]) -> str:
        nonlocal size
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match["index"] is None or int(match["index"]) >= len(values):
            raise _Refused(f"no argument for {match[0]!r}")
        if match["rest"]:
            raise _Refused(f"{match[0]!r} has a format of its own, which is not supported")
        text = to_text(values[int(match["index"])])
        size = _bounded(size + len(text))
        return text

    return _HOLE.sub(fill, _text(template))


def _replace(text: object, old: object, new: object) -> str:
    if not _text(old):
        raise _Refused("an empty string to be replaced")
    _bounded(_text(text).count(_text(old)) * len(_text(new)))
    return _text(text).replace(_text(old), _text(new))


def _substring(text: object, start: object, length: object = None) -> str:
    whole, first = _text(text), _int(start)
    count = len(whole) - first if length is None else _int(length)
    if first < 0 or count < 0 or first + count > len(whole):
        raise _Refused(f"{count} characters from {first} on, of {len(whole)}")
    return whole[first : first + count]


def _split(text: object, delimiters: object) -> list[object]:
    if isinstance(delimiters, list):
        marks = [_text(mark) for mark in delimiters]
        if not marks or not all(marks):
            raise _Refused("an empty delimiter")
        return list(re.split("|".join(re.escape(mark) for mark in marks), _text(text)))
    if not _text(delimiters):
        raise _Refused("an empty delimiter")
    return list(_text(text).split(_text(delimiters)))


def _join(items: object, delimiter: object) -> str:
    return _text(delimiter).join(to_text(item) for item in _list(items))


def _pad_left(value: object, length: object, padding: object = " ") -> str:
    if len(_text(padding)) != 1:
        raise _Refused("a padding of more than one character")
    return to_text(value).rjust(_bounded(_int(length)), _text(padding))


def _trim(text: object) -> str:
    return _text(text).strip()


def _base64(text: object) -> str:
    return base64.b64encode(_text(text).encode()).decode()


def _from_base64(text: object) -> str:
    try:
        return base64.b64decode(_text(text), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise _Refused("not the base64 of UTF-8 text") from None


def _json(text: object) -> object:
    return load_json(_text(text), what="function json")


def _guid(*values: object) -> str:
    return str(uuid.uuid5(_GUID_NAMESPACE, "-".join(_text(value) for value in values)))


def _data_uri(text: object) -> str:
    return f"data:text/plain;charset=utf8;base64,{_base64(text)}"


# -- arrays and objects ---------------------------------------------------------------------------


def _length(value: object) -> int:
    if not isinstance(value, str | list | dict):
        raise _Refused(f"{kind(value)}, wanted a string, an array or an object")
    return len(value)


def _empty(value: object) -> bool:
    return value is None or _length(value) == 0


def _first(value: object) -> object:
    if isinstance(value, str):
        return value[:1]
    return next(iter(_list(value)), None)


def _last(value: object) -> object:
    if isinstance(value, str):
        return value[-1:]
    return _list(value)[-1] if _list(value) else None


def _take(value: object, count: object) -> object:
    number = max(0, _int(count))
    return value[:number] if isinstance(value, str) else _list(value)[:number]


def _skip(value: object, count: object) -> object:
    number = max(0, _int(count))
    return value[number:] if isinstance(value, str) else _list(value)[number:]


def _contains(container: object, item: object) -> bool:
    if isinstance(container, str):
        return to_text(item) in container
    if isinstance(container, dict):
        return find(container, _text(item), "function contains") is not None
    return any(_equals(item, other) for other in _list(container))


def _index_of(container: object, item: object) -> int:
    if isinstance(container, str):
        return container.lower().find(_text(item).lower())
    return next((at for at, other in enumerate(_list(container)) if _equals(item, other)), -1)


def _last_index_of(container: object, item: object) -> int:
    if isinstance(container, str):
        return container.lower().rfind(_text(item).lower())
    found = [at for at, other in enumerate(_list(container)) if _equals(item, other)]
    return found[-1] if found else -1


def _union(*values: object) -> object:
    if all(isinstance(value, list) for value in values):
        merged: list[object] = []
        for item in _short([item for value in values for item in _list(value)]):
            if not any(_equals(item, other) for other in merged):
                merged.append(item)
        return merged
    result: dict[str, object] = {}
    for value in values:
        for name, item in _dict(value).items():
            old = result.get(name)
            both = isinstance(old, dict) and isinstance(item, dict)
            result[name] = _union(old, item) if both else item
    return result


def _intersection(*values: object) -> object:
    if all(isinstance(value, list) for value in values):
        rest = [_short(value) for value in values[1:]]
        return [
            item
            for item in _short(values[0])
            if all(any(_equals(item, other) for other in one) for one in rest)
        ]
    others = [_dict(value) for value in values[1:]]
    return {
        name: item
        for name, item in _dict(values[0]).items()
        if all(name in other and _equals(item, other[name]) for other in others)
    }


def _create_object(*values: object) -> dict[str, object]:
    if len(values) % 2:
        raise _Refused("a name without a value")
    return {_text(values[at]): values[at + 1] for at in range(0, len(values), 2)}


def _array(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _range(start: object, count: object) -> list[object]:
    # 10000 is the documented limit.
    if not 0 <= _int(count) <= 10_000:
        raise _Refused(f"{count} numbers, at most 10000 are accepted")
    return list(range(_int(start), _int(start) + _int(count)))


def _numbers(values: tuple[object, ...]) -> list[int]:
    numbers = _list(values[0]) if len(values) == 1 and isinstance(values[0], list) else list(values)
    if not numbers:
        raise _Refused("no numbers")
    return [_int(number) for number in numbers]


def _items(value: object) -> list[object]:
    return [{"key": name, "value": item} for name, item in sorted(_dict(value).items())]


# -- numbers, comparison, logic -------------------------------------------------------------------


def _to_int(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,20}\s*", value, re.ASCII):
        return _int64(int(value))
    return _int(value)


def _to_bool(value: object) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    return bool(value) if isinstance(value, int) else _bool(value)


def _div(left: object, right: object) -> int:
    if _int(right) == 0:
        raise _Refused("a division by zero")
    quotient = abs(_int(left)) // abs(_int(right))
    return quotient if (_int(left) < 0) == (_int(right) < 0) else -quotient


def _mod(left: object, right: object) -> int:
    return _int(left) - _int(right) * _div(left, right)


def _equals(left: object, right: object) -> bool:
    # Python holds True == 1; a template does not.
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equals, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equals(left[name], right[name]) for name in left)
    return left == right


def _less(left: object, right: object) -> bool:
    if isinstance(left, str):
        return left < _text(right)
    return _int(left) < _int(right)


FUNCTIONS: dict[str, Function] = {
    "concat": Function(_concat, 1, 1024),
    "format": Function(_format, 1, 1024),
    "tolower": Function(lambda text: _text(text).lower(), 1, 1),
    "toupper": Function(lambda text: _text(text).upper(), 1, 1),
    "trim": Function(_trim, 1, 1),
    "replace": Function(_replace, 3, 3),
    "substring": Function(_substring, 2, 3),
    "split": Function(_split, 2, 2),
    "join": Function(_join, 2, 2),
    "padleft": Function(_pad_left, 2, 3),
    "startswith": Function(lambda text, part: _text(text).lower().startswith(_text(part).lower()), 2, 2),
    "endswith": Function(lambda text, part: _text(text).lower().endswith(_text(part).lower()), 2, 2),
    "string": Function(to_text, 1, 1),
    "base64": Function(_base64, 1, 1),
    "base64tostring": Function(_from_base64, 1, 1),
    "base64tojson": Function(lambda text: _json(_from_base64(text)), 1, 1),
    "json": Function(_json, 1, 1),
    "guid": Function(_guid, 1, 1024),
    "uri": Function(lambda base, rest: urljoin(_text(base), _text(rest)), 2, 2),
    "uricomponent": Function(lambda text: quote(_text(text), safe=""), 1, 1),
    "uricomponenttostring": Function(lambda text: unquote(_text(text)), 1, 1),
    "datauri": Function(_data_uri, 1, 1),
    "length": Function(_length, 1, 1),
    "empty": Function(_empty, 1, 1),
    "first": Function(_first, 1, 1),
    "last": Function(_last, 1, 1),
    "take": Function(_take, 2, 2),
    "skip": Function(_skip, 2, 2),
    "contains": Function(_contains, 2, 2),
    "indexof": Function(_index_of, 2, 2),
    "lastindexof": Function(_last_index_of, 2, 2),
    "union": Function(_union, 2, 1024),
    "intersection": Function(_intersection, 2, 1024),
    "array": Function(_array, 1, 1),
    "createarray": Function(lambda *values: list(values), 0, 1024),
    "createobject": Function(_create_object, 0, 1024),
    "items": Function(_items, 1, 1),
    "range": Function(_range, 2, 2),
    "min": Function(lambda *values: min(_numbers(values)), 1, 1024),
    "max": Function(lambda *values: max(_numbers(values)), 1, 1024),
    "int": Function(_to_int, 1, 1),
    "bool": Function(_to_bool, 1, 1),
    "add": Function(lambda left, right: _int64(_int(left) + _int(right)), 2, 2),
    "sub": Function(lambda left, right: _int64(_int(left) - _int(right)), 2, 2),
    "mul": Function(lambda left, right: _int64(_int(left) * _int(right)), 2, 2),
    "div": Function(_div, 2, 2),
    "mod": Function(_mod, 2, 2),
    "equals": Function(_equals, 2, 2),
    "less": Function(_less, 2, 2),
    "lessorequals": Function(lambda left, right: not _less(right, left), 2, 2),
    "greater": Function(lambda left, right: _less(right, left), 2, 2),
    "greaterorequals": Function(lambda left, right: not _less(left, right), 2, 2),
    "not": Function(lambda value: not _bool(value), 1, 1),
    "true": Function(lambda: True, 0, 0),
    "false": Function(lambda: False, 0, 0),
    "null": Function(lambda: None, 0, 0),
}
