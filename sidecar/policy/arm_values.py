"""Values of a template, and how members are looked up: names do not depend on case.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.errors import MalformedInput
from sidecar.strictjson import JsonObject


class KnownLater(MalformedInput):
    """Only the deployment knows the value: a parameter without one, a vault's secret, a runtime function."""


def find(obj: Mapping[str, object], name: str, what: str) -> object:
    """A member whatever the case of its name; None where it is absent.

    Raises:
        MalformedInput: two members differ only in case: readers may disagree on which one counts.
    """
    lowered = name.lower()
    keys = [key for key in obj if key.lower() == lowered]
    if len(keys) > 1:
        raise MalformedInput(f"{what}: members {keys[0]!r} and {keys[1]!r} differ only in case")
    return obj[keys[0]] if keys else None


def find_object(obj: Mapping[str, object], name: str, what: str) -> JsonObject:
    """An object member; an empty one where it is absent or null."""
    value = find(obj, name, what)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedInput(f"{what}: member {name!r} is {kind(value)}, wanted an object")
    return value


def find_list(obj: Mapping[str, object], name: str, what: str, *, max_items: int = 1024) -> list[object]:
    """A list member; an empty one where it is absent or null."""
    value = find(obj, name, what)
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedInput(f"{what}: member {name!r} is {kind(value)}, wanted an array")
    if len(value) > max_items:
        raise MalformedInput(
            f"{what}: member {name!r} has {len(value)} items, at most {max_items} are accepted"
        )
    return value


def find_text(obj: Mapping[str, object], name: str, what: str) -> str | None:
    """A string member; None where it is absent or null."""
    value = find(obj, name, what)
    if value is not None and not isinstance(value, str):
        raise MalformedInput(f"{what}: member {name!r} is {kind(value)}, wanted a string")
    return value


def find_bool(obj: Mapping[str, object], name: str, what: str) -> bool | None:
    """A member that is true or false, or the word for it; None where it is absent or null."""
    value = find(obj, name, what)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is not None and not isinstance(value, bool):
        raise MalformedInput(f"{what}: member {name!r} is {kind(value)}, wanted true or false")
    return value


def find_words(obj: Mapping[str, object], name: str, what: str) -> tuple[str, ...]:
    """A member that is a list of strings; an empty one where it is absent or null."""
    words = []
    for number, item in enumerate(find_list(obj, name, what)):
        if not isinstance(item, str):
            raise MalformedInput(f"{what}: item {number} of {name!r} is {kind(item)}, wanted a string")
        words.append(item)
    return tuple(words)


def kind(value: object) -> str:
    """What a value is, in words; never the value, which may be secret."""
    names: dict[type, str] = {
        dict: "an object", list: "an array", str: "a string", bool: "true or false",
        int: "a number", float: "a number", type(None): "null",
    }  # fmt: skip
    return names.get(type(value), "of a kind that is read differently by different readers")
