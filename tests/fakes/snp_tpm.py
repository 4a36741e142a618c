"""A TPM 2.0 that knows NV indexes and nothing else, with a paravisor that answers "user-data"."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

from sidecar.snp.hcl import build_hcl

REPORT_INDEX, DATA_INDEX = 0x01400001, 0x01400002
NO_INDEX, BAD_RANGE, BAD_AUTH = 0x18B, 0x146, 0x9A2


class Tpm:
    """`transmit` takes a command to its response.

    Args:
        sign: report for 64 bytes.
        delay: reads of the report's first bytes until a new report is there; a stale one comes before.
        names_data: False for an old host, whose runtime data has no "user-data".
    """

    def __init__(self, sign: Callable[[bytes], bytes], *, delay: int = 0, names_data: bool = True) -> None:
        self.sign = sign
        self.delay = delay
        self.names_data = names_data
        self.indexes: dict[int, bytearray] = {REPORT_INDEX: bytearray(2600)}
        self.commands: list[int] = []
        self.pending = -1
        self.make_report(bytes(64))

    def make_report(self, data: bytes) -> None:
        user_data = f',"user-data":"{data.hex().upper()}"' if self.names_data else ""
        runtime = f'{{"keys":[]{user_data}}}'.encode()
        report = self.sign(hashlib.sha256(runtime).digest().ljust(64, b"\0"))
        self.indexes[REPORT_INDEX][:] = build_hcl(report, runtime).ljust(2600, b"\0")

    def transmit(self, command: bytes) -> bytes:
        tag, size, code = struct.unpack_from(">HII", command)
        assert size == len(command)
        self.commands.append(code)
        body = command[10:]
        if code == 0x169:
            assert tag == 0x8001
            (index,) = struct.unpack(">I", body)
            return self.read_public(index)
        assert tag == 0x8002
        if code == 0x12A:
            owner, body = struct.unpack_from(">I", body)[0], body[4:]
            index = 0
        else:
            (owner, index), body = struct.unpack_from(">II", body), body[8:]
        assert owner == 0x40000001
        size, handle, nonce, _, secret = struct.unpack_from(">IIHBH", body)
        assert (size, handle, nonce, secret) == (9, 0x40000009, 0, 0)
        body = body[13:]
        if code == 0x12A:
            return self.define(body)
        if index not in self.indexes:
            return self.error(NO_INDEX)
        if code == 0x122:
            del self.indexes[index]
            return self.done(b"")
        if code == 0x14E:
            return self.read(index, *struct.unpack(">HH", body))
        assert code == 0x137
        return self.write(index, body)

    def read_public(self, index: int) -> bytes:
        if index not in self.indexes:
            return self.error(NO_INDEX)
        public = struct.pack(">IHIHH", index, 0xB, 0x20022, 0, len(self.indexes[index]))
        body = struct.pack(">H", len(public)) + public + struct.pack(">H", 2) + b"na"
        return struct.pack(">HII", 0x8001, 10 + len(body), 0) + body

    def define(self, body: bytes) -> bytes:
        auth, size = struct.unpack_from(">HH", body)
        assert auth == 0
        index, algorithm, attributes, policy, length = struct.unpack(">IHIHH", body[4 : 4 + size])
        assert (algorithm, attributes, policy) == (0xB, 0x20002, 0)
        self.indexes[index] = bytearray(length)
        return self.done(b"")

    def read(self, index: int, length: int, offset: int) -> bytes:
        if offset + length > len(self.indexes[index]):
            return self.error(BAD_RANGE)
        if index == REPORT_INDEX and offset == 0 and self.pending >= 0:
            self.pending -= 1
            if self.pending < 0:
                self.make_report(bytes(self.indexes[DATA_INDEX]))
        piece = bytes(self.indexes[index][offset : offset + length])
        return self.done(struct.pack(">H", len(piece)) + piece)

    def write(self, index: int, body: bytes) -> bytes:
        (length,) = struct.unpack_from(">H", body)
        data, (offset,) = body[2 : 2 + length], struct.unpack(">H", body[2 + length :])
        if offset + length > len(self.indexes[index]):
            return self.error(BAD_RANGE)
        self.indexes[index][offset : offset + length] = data
        if index == DATA_INDEX:
            self.pending = self.delay
            if self.pending == 0:
                self.pending = -1
                self.make_report(bytes(self.indexes[DATA_INDEX]))
        return self.done(b"")

    @staticmethod
    def done(parameters: bytes) -> bytes:
        body = struct.pack(">I", len(parameters)) + parameters + bytes((0, 0, 1, 0, 0))
        return struct.pack(">HII", 0x8002, 10 + len(body), 0) + body

    @staticmethod
    def error(code: int) -> bytes:
        return struct.pack(">HII", 0x8001, 10, code)
