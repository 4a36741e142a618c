"""The wire format against Google's own library, both ways, and what is refused."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.keyprovider import SERVICE
from sidecar.protobuf import FieldType, build_field, build_number, message, parse_fields

PAIR = message("Pair", ("text", FieldType.STRING), ("data", FieldType.BYTES))


def test_the_description_is_valid_and_complete() -> None:
    found = descriptor_pb2.FileDescriptorProto.FromString(SERVICE.descriptor())
    assert (found.name, found.package, found.syntax) == ("key_provider.proto", "key_provider", "proto3")
    assert [m.name for m in found.service[0].method] == [
        "WrapKey",
        "UnWrapKey",
        "GetReport",
        "GetAttestationData",
        "SayHello",
    ]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(found)
    output = pool.FindMessageTypeByName("key_provider.KeyProviderGetAttestationDataOutput")
    assert [(f.name, f.number) for f in output.fields] == [
        ("endorsed_tcb", 1),
        ("certs", 2),
        ("attestation_report", 3),
        ("uvm_reference_info", 4),
    ]


@given(st.text(max_size=300), st.binary(max_size=300))
def test_the_other_library_reads_and_writes_the_same(text: str, data: bytes) -> None:
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="p", package="p", syntax="proto3")
    file.message_type.append(descriptor_pb2.DescriptorProto.FromString(PAIR.descriptor()))
    pool.Add(file)
    theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName("p.Pair"))
    ours = PAIR.build({"text": text, "data": data})
    assert theirs(text=text, data=data).SerializeToString(deterministic=True) == ours
    parsed = theirs.FromString(ours)
    assert (parsed.text, parsed.data) == (text, data)
    assert PAIR.parse(ours) == {"text": text.encode(), "data": data}


def test_unknown_fields_are_skipped_and_the_last_one_wins() -> None:
    data = (
        build_field(1, "first")
        + build_number(9, 1 << 63)
        + bytes([7 << 3 | 1, *range(8)])
        + bytes([8 << 3 | 5, *range(4)])
        + build_field(200, b"unknown")
        + build_field(1, "last")
    )
    assert PAIR.parse(data) == {"text": b"last", "data": b""}


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # no length
        b"\x0a\x05abc",  # past the end
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # an over-long number
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # more than 64 bits
        b"\x80",  # ends within a tag
        b"\x0b\x0c",  # a group
        b"\x0e",  # no such wire type
        b"\x02\x00",  # field 0
        b"\x08\x01",  # a number where a string belongs
        b"\x0a\x02\xff\xfe",  # no UTF-8
        b"\x09\x00",  # a cut fixed number
        build_number(9, 0) * 1025,
    ],
)
def test_damage_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        PAIR.parse(data)


@given(st.binary(max_size=64))
def test_only_our_errors_come_out(data: bytes) -> None:
    try:
        list(parse_fields(data, what="x"))
        PAIR.parse(data)
    except MalformedInput:
        pass
