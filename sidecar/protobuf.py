"""Protocol Buffers on the wire, as far as our one service needs them: messages of strings and bytes.

Strategy: a message type is a value that lists its fields; from it come the codec and the description that
gRPC reflection hands out, so the two cannot differ.

Rules: unknown fields are skipped, as the format demands; the last of a repeated single field wins; a known
field of another wire type, a length past the end, an over-long number and a string that is no UTF-8 are
errors. Groups, which the format dropped, are refused.

Spec: Protocol Buffers encoding; descriptor.proto (field numbers of FileDescriptorProto and below).

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from sidecar.errors import MalformedInput

MAX_FIELDS = 1024  # of one message
_MAX_VARINT = 10  # bytes of a 64-bit number
_LABEL_OPTIONAL = 1


class FieldType(IntEnum):
    """Types of descriptor.proto that we use."""

    STRING = 9
    BYTES = 12


class WireType(IntEnum):
    """How a field's value is written."""

    VARINT = 0
    FIXED64 = 1
    LENGTH = 2
    FIXED32 = 5


@dataclass(frozen=True, slots=True)
class Field:
    """One field."""

    name: str
    number: int
    type: FieldType


@dataclass(frozen=True, slots=True)
class Message:
    """One message type; its fields are all single, and absent means empty."""

    name: str
    fields: tuple[Field, ...]

    def build(self, values: Mapping[str, str | bytes]) -> bytes:
        """Write a message; empty values are left out, as proto3 does."""
        return b"".join(
            build_field(f.number, value.encode() if isinstance(value, str) else value)
            for f in self.fields
            if (value := values.get(f.name, ""))
        )

    def parse(self, data: bytes) -> dict[str, bytes]:
        """Read a message: every field's bytes, empty where it is absent; strings are checked UTF-8.

        Raises:
            MalformedInput: not of the format.
        """
        known = {f.number: f for f in self.fields}
        found = {f.name: b"" for f in self.fields}
        for number, wire, value in parse_fields(data, what=self.name):
            if (known_field := known.get(number)) is None:
                continue
            if wire is not WireType.LENGTH:
                raise MalformedInput(f"{self.name}: {known_field.name}: wire type {wire}, wanted 2")
            if known_field.type is FieldType.STRING:
                _check_utf8(value, f"{self.name}: {known_field.name}")
            found[known_field.name] = value
        return found

    def descriptor(self) -> bytes:
        """DescriptorProto."""
        return build_field(1, self.name) + b"".join(
            build_field(
                2,
                build_field(1, f.name)
                + build_number(3, f.number)
                + build_number(4, _LABEL_OPTIONAL)
                + build_number(5, f.type),
            )
            for f in self.fields
        )


@dataclass(frozen=True, slots=True)
class Method:
    """One call: one message in, one out."""

    name: str
    request: Message
    response: Message


@dataclass(frozen=True, slots=True)
class Service:
    """A service in a file of its own."""

    file: str
    package: str
    name: str
    methods: tuple[Method, ...]

    @property
    def full_name(self) -> str:
        """Package and name."""
        return f"{self.package}.{self.name}"

    @property
    def messages(self) -> tuple[Message, ...]:
        """Every message type, once."""
        return tuple(dict.fromkeys(m for call in self.methods for m in (call.request, call.response)))

    @property
    def symbols(self) -> frozenset[str]:
        """Everything that a reflection client may ask for by name."""
        messages = (f"{self.package}.{message.name}" for message in self.messages)
        methods = (f"{self.full_name}.{method.name}" for method in self.methods)
        return frozenset((self.full_name, *messages, *methods))

    def descriptor(self) -> bytes:
        """FileDescriptorProto."""
        methods = (
            build_field(
                2,
                build_field(1, call.name)
                + build_field(2, f".{self.package}.{call.request.name}")
                + build_field(3, f".{self.package}.{call.response.name}"),
            )
            for call in self.methods
        )
        return (
            build_field(1, self.file)
            + build_field(2, self.package)
            + b"".join(build_field(4, message.descriptor()) for message in self.messages)
            + build_field(6, build_field(1, self.name) + b"".join(methods))
            + build_field(12, "proto3")
        )


def message(name: str, *fields: tuple[str, FieldType]) -> Message:
    """A message type whose fields are numbered from 1."""
    return Message(name, tuple(Field(f, i, kind) for i, (f, kind) in enumerate(fields, 1)))


# -- the wire --------------------------------------------------------------------------------------


def build_field(number: int, value: bytes | str) -> bytes:
    """A length-delimited field: string, bytes or message."""
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | WireType.LENGTH) + _varint(len(data)) + data


def build_number(number: int, value: int) -> bytes:
    """A field with a number of 0 or more."""
    return _varint(number << 3 | WireType.VARINT) + _varint(value)


def parse_fields(data: bytes, *, what: str) -> Iterator[tuple[int, WireType, bytes]]:
    """The fields of a message in order: number, wire type, value (the bytes of a number as written).

    Raises:
        MalformedInput: not of the format; raised where it is found.
    """
    position = 0
    for _ in range(MAX_FIELDS):
        if position >= len(data):
            return
        tag, position = _read_varint(data, position, what)
        number, code = tag >> 3, tag & 7
        if not 0 < number < 1 << 29 or code not in tuple(WireType):
            raise MalformedInput(f"{what}: field {number} of wire type {code}")
        wire = WireType(code)
        start = position
        if wire is WireType.VARINT:
            _, end = _read_varint(data, position, what)
        elif wire is WireType.LENGTH:
            length, start = _read_varint(data, position, what)
            end = start + length
        else:
            end = start + (8 if wire is WireType.FIXED64 else 4)
        if end > len(data):
            raise MalformedInput(f"{what}: field {number} goes past the end")
        yield number, wire, data[start:end]
        position = end
    if position < len(data):
        raise MalformedInput(f"{what}: more than {MAX_FIELDS} fields")


def last_of(fields: Sequence[tuple[int, WireType, bytes]], number: int) -> bytes | None:
    """The value of a single field, None where it is absent."""
    return next((value for n, wire, value in reversed(fields) if n == number), None)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, position: int, what: str) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT):
        if position + index >= len(data):
            raise MalformedInput(f"{what}: ends within a number")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position + index + 1
    raise MalformedInput(f"{what}: a number of more than 64 bits")


def _check_utf8(value: bytes, what: str) -> None:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedInput(f"{what}: not UTF-8") from None
