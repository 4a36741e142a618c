"""The report of an Azure confidential VM with a paravisor, as kept in its virtual TPM.

The paravisor asks for the report at VMPL 0 and keeps it in a TPM index, together with runtime data: JSON with
the TPM's keys and, on newer hosts, 64 bytes of the guest's as "user-data". REPORT_DATA is the digest of that
JSON, so a value of the caller's is in the report only by way of "user-data".

Rules: the digest must match here already, because runtime data without it is only a claim of the host's.

Spec: Azure documentation, confidential VM guest attestation, HCL report layout: header of 32 bytes, report,
    header of 20 bytes, JSON.

Kind: pure
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.snp.report import REPORT_SIZE, Report, parse_report

# The TPM index that holds the blob; its size there is fixed and the rest padded with zeros.
NV_INDEX = 0x01400001
MAX_BLOB_SIZE = 16 * 1024
_MAGIC = b"HCLA"
# magic, version, size of the whole, request type, status, reserved
_HEADER = struct.Struct("<4sIIII12s")
# size of header and JSON, version, report type, hash type, size of the JSON
_RUNTIME = struct.Struct("<IIIII")
# Version 1 in every blob seen; the paravisor's published source writes 2.
_VERSIONS = (1, 2)
_RUNTIME_VERSION = 1
_REQUEST_REPORT = 2
_REPORT_TYPE_SNP = 2
_HASHES = {1: hashlib.sha256, 2: hashlib.sha384, 3: hashlib.sha512}


@dataclass(frozen=True, slots=True)
class HclReport:
    """What the blob holds; public, the report not verified.

    Attributes:
        report: 1184 bytes. runtime_data: JSON as the paravisor wrote it, its digest is REPORT_DATA's start.
    """

    report: bytes
    runtime_data: bytes

    @property
    def parsed(self) -> Report:
        """The report, parsed."""
        return parse_report(self.report)


def parse_hcl(data: bytes) -> HclReport:
    """Read the blob of TPM index 0x01400001.

    Args:
        data: at most 16 KiB, public, from the untrusted host.

    Raises:
        MalformedInput: not that layout, not an SNP report, or REPORT_DATA is not the runtime data's digest.
    """
    body = REPORT_SIZE + _HEADER.size
    if not body + _RUNTIME.size <= len(data) <= MAX_BLOB_SIZE:
        wanted = f"{body + _RUNTIME.size} to {MAX_BLOB_SIZE}"
        raise MalformedInput(f"HCL report: {len(data)} bytes, wanted {wanted}")
    magic, version, size, request, status, reserved = _HEADER.unpack_from(data)
    if magic != _MAGIC or version not in _VERSIONS or request != _REQUEST_REPORT or any(reserved):
        raise MalformedInput(
            f"HCL report: magic {magic!r}, version {version}, request {request}, "
            f"wanted {_MAGIC!r}, 1 or 2, {_REQUEST_REPORT}"
        )
    if status:
        raise MalformedInput(f"HCL report: the paravisor says status {status:#x}, wanted 0")
    whole, runtime_version, kind, hash_type, length = _RUNTIME.unpack_from(data, body)
    if kind != _REPORT_TYPE_SNP or runtime_version != _RUNTIME_VERSION or hash_type not in _HASHES:
        raise MalformedInput(
            f"HCL report: report type {kind}, version {runtime_version}, hash {hash_type}, "
            f"wanted {_REPORT_TYPE_SNP}, {_RUNTIME_VERSION}, 1 to 3"
        )
    start = body + _RUNTIME.size
    if whole != _RUNTIME.size + length or start + length > len(data) or size != start + length:
        raise MalformedInput(f"HCL report: runtime data of {length} bytes does not fit its headers")
    blob = HclReport(bytes(data[_HEADER.size : body]), bytes(data[start : start + length]))
    digest = _HASHES[hash_type](blob.runtime_data).digest()
    if not hmac.compare_digest(digest.ljust(64, b"\0"), blob.parsed.report_data):
        raise MalformedInput("HCL report: REPORT_DATA is not the digest of the runtime data")
    return blob


def build_hcl(report: bytes, runtime_data: bytes) -> bytes:
    """Write a blob with a SHA-256 digest type, without padding; for tests and emulators."""
    start = _HEADER.size + REPORT_SIZE + _RUNTIME.size
    header = _HEADER.pack(_MAGIC, _VERSIONS[0], start + len(runtime_data), _REQUEST_REPORT, 0, b"")
    runtime = _RUNTIME.pack(
        _RUNTIME.size + len(runtime_data), _RUNTIME_VERSION, _REPORT_TYPE_SNP, 1, len(runtime_data)
    )
    return header + report + runtime + runtime_data
