"""Template functions that depend on their arguments alone.

Strategy: one table from the name in lower case to a function of the values, with the number of arguments it
takes. What asks the cloud (`reference`, `listKeys`, `resourceGroup`), the clock or chance is not here: the
evaluator refuses it by name. `uniqueString` is refused too, its hash is not published.

Rules: a wrong type or number of arguments is an error that names the function; results are bounded.

Spec: Azure Resource Manager, "ARM template functions": array, comparison, logical, numeric, object, string.

Kind: pure
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin

from sidecar.errors import MalformedInput
from sidecar.policy.arm_arguments import (
    MAX_RESULT,
    Refused,
    bool_of,
    dict_of,
    int64,
    int_of,
    list_of,
    short_list,
    text_of,
    to_text,
)
from sidecar.policy.arm_functions_text import (
    concat,
    data_uri,
    format_text,
    from_base64,
    from_json,
    guid,
    join_text,
    pad_left,
    replace_text,
    split_text,
    substring,
    to_base64,
    trim_text,
)
from sidecar.policy.arm_values import kind


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
    except Refused as exc:
        raise MalformedInput(f"function {name}: {exc}") from None
    if isinstance(result, str | list | dict) and len(result) > MAX_RESULT:
        raise MalformedInput(f"function {name}: a result of {len(result)}, at most {MAX_RESULT} are accepted")
    return result


# -- arrays and objects ---------------------------------------------------------------------------


def _length(value: object) -> int:
    if not isinstance(value, str | list | dict):
        raise Refused(f"{kind(value)}, wanted a string, an array or an object")
    return len(value)


def _empty(value: object) -> bool:
    return value is None or _length(value) == 0


def _first(value: object) -> object:
    if isinstance(value, str):
        return value[:1]
    return next(iter(list_of(value)), None)


def _last(value: object) -> object:
    if isinstance(value, str):
        return value[-1:]
    return list_of(value)[-1] if list_of(value) else None


def _take(value: object, count: object) -> object:
    number = max(0, int_of(count))
    return value[:number] if isinstance(value, str) else list_of(value)[:number]


def _skip(value: object, count: object) -> object:
    number = max(0, int_of(count))
    return value[number:] if isinstance(value, str) else list_of(value)[number:]


def _contains(container: object, item: object) -> bool:
    if isinstance(container, str):
        return to_text(item) in container
    if isinstance(container, dict):
        return text_of(item).lower() in {name.lower() for name in container}
    return any(_equals(item, other) for other in list_of(container))


def _index_of(container: object, item: object) -> int:
    if isinstance(container, str):
        return container.lower().find(text_of(item).lower())
    return next((at for at, other in enumerate(list_of(container)) if _equals(item, other)), -1)


def _last_index_of(container: object, item: object) -> int:
    if isinstance(container, str):
        return container.lower().rfind(text_of(item).lower())
    found = [at for at, other in enumerate(list_of(container)) if _equals(item, other)]
    return found[-1] if found else -1


def _union(*values: object) -> object:
    if all(isinstance(value, list) for value in values):
        merged: list[object] = []
        for item in short_list([item for value in values for item in list_of(value)]):
            if not any(_equals(item, other) for other in merged):
                merged.append(item)
        return merged
    result: dict[str, object] = {}
    for value in values:
        for name, item in dict_of(value).items():
            old = result.get(name)
            both = isinstance(old, dict) and isinstance(item, dict)
            result[name] = _union(old, item) if both else item
    return result


def _intersection(*values: object) -> object:
    if all(isinstance(value, list) for value in values):
        rest = [short_list(value) for value in values[1:]]
        return [
            item
            for item in short_list(values[0])
            if all(any(_equals(item, other) for other in one) for one in rest)
        ]
    others = [dict_of(value) for value in values[1:]]
    return {
        name: item
        for name, item in dict_of(values[0]).items()
        if all(name in other and _equals(item, other[name]) for other in others)
    }


def _create_object(*values: object) -> dict[str, object]:
    if len(values) % 2:
        raise Refused("a name without a value")
    return {text_of(values[at]): values[at + 1] for at in range(0, len(values), 2)}


def _array(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _range(start: object, count: object) -> list[object]:
    # 10000 is the documented limit.
    if not 0 <= int_of(count) <= 10_000:
        raise Refused(f"{count} numbers, at most 10000 are accepted")
    return list(range(int_of(start), int_of(start) + int_of(count)))


def _numbers(values: tuple[object, ...]) -> list[int]:
    numbers = list_of(values[0]) if len(values) == 1 and isinstance(values[0], list) else list(values)
    if not numbers:
        raise Refused("no numbers")
    return [int_of(number) for number in numbers]


def _items(value: object) -> list[object]:
    return [{"key": name, "value": item} for name, item in sorted(dict_of(value).items())]


# -- numbers, comparison, logic -------------------------------------------------------------------


def _to_int(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,20}\s*", value, re.ASCII):
        return int64(int(value))
    return int_of(value)


def _to_bool(value: object) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0"):
        return value.lower() in ("true", "1")
    return bool(value) if isinstance(value, int) else bool_of(value)


def _div(left: object, right: object) -> int:
    if int_of(right) == 0:
        raise Refused("a division by zero")
    quotient = abs(int_of(left)) // abs(int_of(right))
    return quotient if (int_of(left) < 0) == (int_of(right) < 0) else -quotient


def _mod(left: object, right: object) -> int:
    return int_of(left) - int_of(right) * _div(left, right)


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
        return left < text_of(right)
    return int_of(left) < int_of(right)


FUNCTIONS: dict[str, Function] = {
    "concat": Function(concat, 1, 1024),
    "format": Function(format_text, 1, 1024),
    "tolower": Function(lambda text: text_of(text).lower(), 1, 1),
    "toupper": Function(lambda text: text_of(text).upper(), 1, 1),
    "trim": Function(trim_text, 1, 1),
    "replace": Function(replace_text, 3, 3),
    "substring": Function(substring, 2, 3),
    "split": Function(split_text, 2, 2),
    "join": Function(join_text, 2, 2),
    "padleft": Function(pad_left, 2, 3),
    "startswith": Function(lambda text, part: text_of(text).lower().startswith(text_of(part).lower()), 2, 2),
    "endswith": Function(lambda text, part: text_of(text).lower().endswith(text_of(part).lower()), 2, 2),
    "string": Function(to_text, 1, 1),
    "base64": Function(to_base64, 1, 1),
    "base64tostring": Function(from_base64, 1, 1),
    "base64tojson": Function(lambda text: from_json(from_base64(text)), 1, 1),
    "json": Function(from_json, 1, 1),
    "guid": Function(guid, 1, 1024),
    "uri": Function(lambda base, rest: urljoin(text_of(base), text_of(rest)), 2, 2),
    "uricomponent": Function(lambda text: quote(text_of(text), safe=""), 1, 1),
    "uricomponenttostring": Function(lambda text: unquote(text_of(text)), 1, 1),
    "datauri": Function(data_uri, 1, 1),
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
    "add": Function(lambda left, right: int64(int_of(left) + int_of(right)), 2, 2),
    "sub": Function(lambda left, right: int64(int_of(left) - int_of(right)), 2, 2),
    "mul": Function(lambda left, right: int64(int_of(left) * int_of(right)), 2, 2),
    "div": Function(_div, 2, 2),
    "mod": Function(_mod, 2, 2),
    "equals": Function(_equals, 2, 2),
    "less": Function(_less, 2, 2),
    "lessorequals": Function(lambda left, right: not _less(right, left), 2, 2),
    "greater": Function(lambda left, right: _less(right, left), 2, 2),
    "greaterorequals": Function(lambda left, right: not _less(left, right), 2, 2),
    "not": Function(lambda value: not bool_of(value), 1, 1),
    "true": Function(lambda: True, 0, 0),
    "false": Function(lambda: False, 0, 0),
    "null": Function(lambda: None, 0, 0),
}
