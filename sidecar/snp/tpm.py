"""The few TPM 2.0 commands that read and write an NV index, as bytes.

Strategy: commands are built and responses read here, nothing is sent. Authorisation is the owner's with an
empty password, which is how Azure hands out its virtual TPM.

Spec: TCG TPM 2.0 Library, part 3, NV_ReadPublic, NV_Read, NV_Write, NV_DefineSpace, NV_UndefineSpace; part 2,
    command and response headers, TPMS_NV_PUBLIC, TPMA_NV, TPM_RC.

Kind: pure
"""

from __future__ import annotations

import struct

from sidecar.errors import MalformedInput

MAX_RESPONSE_SIZE = 4096
# Every TPM takes this much at once; many take twice as much.
NV_CHUNK = 512
MAX_NV_SIZE = 16 * 1024
_HEADER = struct.Struct(">HII")
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_NV_UNDEFINE, _NV_DEFINE, _NV_WRITE, _NV_READ, _NV_READ_PUBLIC = 0x122, 0x12A, 0x137, 0x14E, 0x169
_OWNER = 0x40000001
# One password session: TPM_RS_PW, empty nonce, no attributes, empty password.
_PASSWORD = struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
_SHA256 = 0x000B
_OWNERWRITE, _OWNERREAD = 0x00000002, 0x00020000
# TPM_RC_HANDLE for the first handle: no such index.
_RC_NO_INDEX = 0x18B


class TpmRefusal(Exception):
    """The TPM answered with an error; `vtpm` translates it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"TPM error {code:#x}")
        self.code = code

    @property
    def is_absent(self) -> bool:
        """There is no such index."""
        return self.code == _RC_NO_INDEX


def read_public_command(index: int) -> bytes:
    """NV_ReadPublic."""
    return _command(_NO_SESSIONS, _NV_READ_PUBLIC, struct.pack(">I", index))


def read_command(index: int, offset: int, length: int) -> bytes:
    """NV_Read of `length` bytes at `offset`."""
    return _command(
        _SESSIONS,
        _NV_READ,
        struct.pack(">II", _OWNER, index) + _PASSWORD + struct.pack(">HH", length, offset),
    )


def write_command(index: int, data: bytes) -> bytes:
    """NV_Write of all of `data`, at most `NV_CHUNK` bytes, at offset 0."""
    body = struct.pack(">H", len(data)) + data + struct.pack(">H", 0)
    return _command(_SESSIONS, _NV_WRITE, struct.pack(">II", _OWNER, index) + _PASSWORD + body)


def define_command(index: int, size: int) -> bytes:
    """NV_DefineSpace of `size` bytes that the owner may read and write."""
    public = struct.pack(">IHIHH", index, _SHA256, _OWNERWRITE | _OWNERREAD, 0, size)
    body = struct.pack(">HH", 0, len(public)) + public
    return _command(_SESSIONS, _NV_DEFINE, struct.pack(">I", _OWNER) + _PASSWORD + body)


def undefine_command(index: int) -> bytes:
    """NV_UndefineSpace."""
    return _command(_SESSIONS, _NV_UNDEFINE, struct.pack(">II", _OWNER, index) + _PASSWORD)


def parse_done(data: bytes) -> None:
    """Read the response of a command that returns nothing; raises as `parse_read` does."""
    _body(data)


def parse_public_size(data: bytes) -> int:
    """Size of an index in bytes, from the response to NV_ReadPublic.

    Raises:
        TpmRefusal: the TPM answered with an error.
        MalformedInput: the response does not parse.
    """
    public = _sized(_body(data), "NV public area")
    if len(public) < 14:
        raise MalformedInput(f"TPM: NV public area of {len(public)} bytes, wanted at least 14")
    (policy,) = struct.unpack_from(">H", public, 10)
    if len(public) != 14 + policy:
        raise MalformedInput(f"TPM: NV public area of {len(public)} bytes, wanted {14 + policy}")
    (size,) = struct.unpack_from(">H", public, 12 + policy)
    if size > MAX_NV_SIZE:
        raise MalformedInput(f"TPM: NV index of {size} bytes, wanted at most {MAX_NV_SIZE}")
    return int(size)


def parse_read(data: bytes, length: int) -> bytes:
    """Content from the response to NV_Read, exactly `length` bytes.

    Raises:
        TpmRefusal: the TPM answered with an error.
        MalformedInput: the response does not parse.
    """
    # With sessions, the size of the parameters comes before them.
    content = _sized(_body(data)[4:], "NV data")
    if len(content) != length:
        raise MalformedInput(f"TPM: {len(content)} bytes read, wanted {length}")
    return content


def _command(tag: int, code: int, body: bytes) -> bytes:
    return _HEADER.pack(tag, _HEADER.size + len(body), code) + body


def _body(data: bytes) -> bytes:
    if len(data) < _HEADER.size:
        raise MalformedInput(f"TPM: response of {len(data)} bytes, wanted at least {_HEADER.size}")
    _, size, code = _HEADER.unpack_from(data)
    if size != len(data):
        raise MalformedInput(f"TPM: response of {len(data)} bytes says {size}")
    if code:
        raise TpmRefusal(code)
    return data[_HEADER.size :]


def _sized(data: bytes, what: str) -> bytes:
    """A TPM2B: 16-bit size, then content; what follows it is not looked at."""
    if len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        raise MalformedInput(f"TPM: {what} is cut short")
    return data[2 : 2 + int.from_bytes(data[:2], "big")]
