"""Template functions on strings.

Spec: Azure Resource Manager, "String functions for ARM templates".

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid

from sidecar.policy.arm_arguments import Refused, bounded, int_of, list_of, text_of, to_text
from sidecar.policy.arm_values import kind
from sidecar.strictjson import load_json

# The name space of the `guid` function, from its documentation.
_GUID_NAMESPACE = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")


def concat(*values: object) -> object:
    if all(isinstance(value, list) for value in values):
        bounded(sum(len(list_of(value)) for value in values))
        return [item for value in values for item in list_of(value)]
    for value in values:
        if not isinstance(value, str | int):
            raise Refused(f"{kind(value)}, wanted strings or arrays")
    texts = [to_text(value) for value in values]
    bounded(sum(map(len, texts)))
    return "".join(texts)


_HOLE = re.compile(r"\{\{|\}\}|\{(?P<index>[0-9]{1,4})(?P<rest>[^{}]*)\}|[{}]")


def format_text(template: object, *values: object) -> str:
    size = 0

    def fill(match: re.Match[str]) -> str:
        nonlocal size
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match["index"] is None or int(match["index"]) >= len(values):
            raise Refused(f"no argument for {match[0]!r}")
        if match["rest"]:
            raise Refused(f"{match[0]!r} has a format of its own, which is not supported")
        text = to_text(values[int(match["index"])])
        size = bounded(size + len(text))
        return text

    return _HOLE.sub(fill, text_of(template))


def replace_text(text: object, old: object, new: object) -> str:
    if not text_of(old):
        raise Refused("an empty string to be replaced")
    bounded(text_of(text).count(text_of(old)) * len(text_of(new)))
    return text_of(text).replace(text_of(old), text_of(new))


def substring(text: object, start: object, length: object = None) -> str:
    whole, first = text_of(text), int_of(start)
    count = len(whole) - first if length is None else int_of(length)
    if first < 0 or count < 0 or first + count > len(whole):
        raise Refused(f"{count} characters from {first} on, of {len(whole)}")
    return whole[first : first + count]


def split_text(text: object, delimiters: object) -> list[object]:
    if isinstance(delimiters, list):
        marks = [text_of(mark) for mark in delimiters]
        if not marks or not all(marks):
            raise Refused("an empty delimiter")
        return list(re.split("|".join(re.escape(mark) for mark in marks), text_of(text)))
    if not text_of(delimiters):
        raise Refused("an empty delimiter")
    return list(text_of(text).split(text_of(delimiters)))


def join_text(items: object, delimiter: object) -> str:
    return text_of(delimiter).join(to_text(item) for item in list_of(items))


def pad_left(value: object, length: object, padding: object = " ") -> str:
    if len(text_of(padding)) != 1:
        raise Refused("a padding of more than one character")
    return to_text(value).rjust(bounded(int_of(length)), text_of(padding))


def trim_text(text: object) -> str:
    return text_of(text).strip()


def to_base64(text: object) -> str:
    return base64.b64encode(text_of(text).encode()).decode()


def from_base64(text: object) -> str:
    try:
        return base64.b64decode(text_of(text), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Refused("not the base64 of UTF-8 text") from None


def from_json(text: object) -> object:
    return load_json(text_of(text), what="function json")


def guid(*values: object) -> str:
    return str(uuid.uuid5(_GUID_NAMESPACE, "-".join(text_of(value) for value in values)))


def data_uri(text: object) -> str:
    return f"data:text/plain;charset=utf8;base64,{to_base64(text)}"
