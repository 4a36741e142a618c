"""CBOR, the small strict part of it that COSE messages need, to and from Python values.

Strategy: a cursor over the bytes, one branch per major type. No third-party library: general decoders accept
duplicate map keys, shared references, big numbers and dates, none of which belongs in a signed message that
two readers must read the same way.

Rules: definite lengths only, shortest encodings only, no floats, map keys are integers or text and unique,
nesting and item count are bounded, nothing may follow. So `encode(decode(x)) == x` for whatever is accepted,
map order included.

Spec: RFC 8949, sections 3 and 4.2.1 (preferred serialization).

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from sidecar.errors import MalformedInput

MAX_SIZE = 1 << 20
MAX_DEPTH = 16
MAX_ITEMS = 10_000
_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLE_VALUES: dict[int, bool | None] = {20: False, 21: True, 22: None}
_LONG_FORMS = {24: 1, 25: 2, 26: 4, 27: 8}


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with a CBOR tag."""

    tag: int
    value: Value


Key = int | str
Value = int | str | bytes | bool | None | Sequence["Value"] | Mapping[Key, "Value"] | Tagged


def decode(data: bytes, *, what: str = "CBOR") -> Value:
    """Read one item that fills `data`.

    Args:
        data: at most 1 MiB, from an untrusted party.
        what: names the input in errors.

    Returns:
        int, str, bytes, bool, None, list, dict or `Tagged`.

    Raises:
        MalformedInput: not the strict part described above.
    """
    if len(data) > MAX_SIZE:
        raise MalformedInput(f"{what}: {len(data)} bytes, wanted at most {MAX_SIZE}")
    reader = _Reader(data, what)
    value = reader.item(0)
    if reader.position != len(data):
        reader.fail(f"{len(data) - reader.position} bytes follow the item")
    return value


def encode(value: Value) -> bytes:
    """Write one item in its shortest form; maps keep their order.

    Raises:
        MalformedInput: a number beyond 64 bits.
    """
    if isinstance(value, bool) or value is None:
        return _head(_SIMPLE, {False: 20, True: 21, None: 22}[value])
    if isinstance(value, int):
        return _head(_UINT, value) if value >= 0 else _head(_NINT, -1 - value)
    if isinstance(value, bytes):
        return _head(_BYTES, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return _head(_TEXT, len(text)) + text
    if isinstance(value, Tagged):
        return _head(_TAG, value.tag) + encode(value.value)
    if isinstance(value, Mapping):
        pairs = (encode(k) + encode(v) for k, v in value.items())
        return _head(_MAP, len(value)) + b"".join(pairs)
    return _head(_ARRAY, len(value)) + b"".join(encode(item) for item in value)


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major << 5 | argument,))
    for form, size in _LONG_FORMS.items():
        if argument >> 8 * size == 0:
            return bytes((major << 5 | form,)) + argument.to_bytes(size, "big")
    raise MalformedInput(f"CBOR: {argument.bit_length()} bits, wanted at most 64")


class _Reader:
    """A position in the data; every method reads one thing there and moves on."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.what = what
        self.position = 0
        self.items = 0

    def fail(self, message: str) -> NoReturn:
        raise MalformedInput(f"{self.what}: {message} at byte {self.position}")

    def item(self, depth: int) -> Value:
        self.items += 1
        if depth > MAX_DEPTH or self.items > MAX_ITEMS:
            self.fail("nested too deep or too many items")
        major, argument = self.head()
        if major == _UINT:
            return argument
        if major == _NINT:
            return -1 - argument
        if major == _BYTES:
            return self.take(argument)
        if major == _TEXT:
            return self.text(argument)
        if major == _ARRAY:
            return [self.item(depth + 1) for _ in range(self.count(argument))]
        if major == _MAP:
            return self.map(self.count(argument), depth + 1)
        if major == _TAG:
            return Tagged(argument, self.item(depth + 1))
        if argument not in _SIMPLE_VALUES:
            self.fail(f"simple value {argument} is not accepted")
        return _SIMPLE_VALUES[argument]

    def head(self) -> tuple[int, int]:
        (first,) = self.take(1)
        major, short = first >> 5, first & 31
        if short < 24:
            return major, short
        if short not in _LONG_FORMS or major == _SIMPLE:
            self.fail("float, indefinite length or reserved form")
        size = _LONG_FORMS[short]
        argument = int.from_bytes(self.take(size), "big")
        # The shortest form must be the one used.
        if _head(major, argument)[0] & 31 != short:
            self.fail("a length or number is not in its shortest form")
        return major, argument

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            self.fail(f"{length} bytes wanted, {len(self.data) - self.position} left")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def count(self, argument: int) -> int:
        """Every item takes at least a byte, which bounds what a length may promise."""
        if argument > len(self.data) - self.position:
            self.fail(f"{argument} items promised, {len(self.data) - self.position} bytes left")
        return argument

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            self.fail("text is not UTF-8")

    def map(self, count: int, depth: int) -> dict[Key, Value]:
        found: dict[Key, Value] = {}
        for _ in range(count):
            key = self.item(depth)
            if isinstance(key, bool) or not isinstance(key, int | str):
                self.fail("a map key is neither integer nor text")
            if key in found:
                self.fail(f"map key {str(key)[:32]!r} appears twice")
            found[key] = self.item(depth)
        return found
