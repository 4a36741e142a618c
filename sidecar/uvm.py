"""What the utility VM hands its containers: security policy, reference info, host certificates.

Strategy: three places, the first that exists wins: the directory of UVM_SECURITY_CONTEXT_DIR, the first
directory of the root whose name contains "security-context-", the Kata agent's directory. When none of them
gives reference info, the variables of older hosts are read; each that is set replaces its file.

Rules: absent or empty means None; what is there but does not parse is an error that names the file or
variable, never a silent None. Files hold one line of standard base64. Files we do not know are left alone.

Spec: hcsshim pkg/securitypolicy, names of the security context files and variables; Azure container instances
documentation, confidential containers: HOST_DATA is the SHA-256 of the decoded policy.

Kind: adapter
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.errors import MalformedInput, UsageError
from sidecar.snp.certs import Collateral, decode_host_certificates

DIRECTORY_VARIABLE = "UVM_SECURITY_CONTEXT_DIR"
DIRECTORY_NAME = "security-context-"
KATA_DIRECTORY = "opt/confidential-containers/share/kata-containers"
# Policies of large groups reach a few megabytes; the rest is far smaller.
MAX_FILE_SIZE = 16 * 1024 * 1024

# File and variable of each piece.
_POLICY = ("security-policy-base64", "UVM_SECURITY_POLICY")
_REFERENCE = ("reference-info-base64", "UVM_REFERENCE_INFO")
_CERTIFICATES = ("host-amd-cert-base64", "UVM_HOST_AMD_CERTIFICATE")


@dataclass(frozen=True, slots=True)
class UvmInfo:
    """What was found; all public, all from the untrusted host.

    Attributes:
        security_policy: decoded text; None when there is none.
        reference_info: decoded COSE_Sign1.
        reference_info_base64: the same as the host wrote it, "" when there is none.
        host_certificates: chain and TCB of the host when the container started.
        directory: where files were looked for, None when no place exists.
    """

    security_policy: bytes | None = None
    reference_info: bytes | None = None
    reference_info_base64: str = ""
    host_certificates: Collateral | None = None
    directory: Path | None = None

    @property
    def host_data(self) -> bytes:
        """HOST_DATA a report must have for this policy, 32 bytes; zeros without a policy."""
        if self.security_policy is None:
            return bytes(32)
        return hashlib.sha256(self.security_policy).digest()


def read_uvm(environ: Mapping[str, str] | None = None, *, root: Path = Path("/")) -> UvmInfo:
    """Look for the security context.

    Args:
        environ: variables, the process's own by default.
        root: where the root directory is, for tests.

    Raises:
        UsageError: UVM_SECURITY_CONTEXT_DIR names no directory.
        MalformedInput: something is there but cannot be read or does not parse.
    """
    environ = os.environ if environ is None else environ
    directory = _directory(environ, root)
    pieces = {piece: _from_file(directory, piece[0]) for piece in (_POLICY, _REFERENCE, _CERTIFICATES)}
    if pieces[_REFERENCE] is None:
        for piece in pieces:
            if environ.get(piece[1]):
                pieces[piece] = _Text(piece[1], environ[piece[1]].strip().encode("ascii", "replace"))
    policy, reference, certificates = pieces.values()
    return UvmInfo(
        security_policy=policy.decode() if policy else None,
        reference_info=reference.decode() if reference else None,
        reference_info_base64=reference.text.decode("ascii") if reference else "",
        host_certificates=certificates.decode_certificates() if certificates else None,
        directory=directory,
    )


@dataclass(frozen=True, slots=True)
class _Text:
    """Base64 text and where it came from."""

    origin: str
    text: bytes

    def decode(self) -> bytes:
        try:
            return base64.b64decode(self.text, validate=True)
        except binascii.Error as exc:
            raise MalformedInput(f"{self.origin}: not standard base64 ({len(self.text)} characters)") from exc

    def decode_certificates(self) -> Collateral:
        try:
            return decode_host_certificates(self.text, source=self.origin)
        except MalformedInput as exc:
            raise MalformedInput(f"{self.origin}: {exc}", hint=exc.hint) from exc


def _directory(environ: Mapping[str, str], root: Path) -> Path | None:
    if chosen := environ.get(DIRECTORY_VARIABLE):
        if not Path(chosen).is_dir():
            raise UsageError(
                f"{DIRECTORY_VARIABLE}: {chosen} is not a directory",
                hint="unset it to look in the usual places, or correct the path",
            )
        return Path(chosen)
    found = sorted(p for p in root.iterdir() if DIRECTORY_NAME in p.name and p.is_dir())
    kata = root / KATA_DIRECTORY
    return next(iter([*found, *([kata] if kata.is_dir() else [])]), None)


def _from_file(directory: Path | None, name: str) -> _Text | None:
    if directory is None:
        return None
    path = directory / name
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_SIZE + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise MalformedInput(f"{path}: cannot be read: {exc.strerror}") from exc
    if len(text) > MAX_FILE_SIZE:
        raise MalformedInput(f"{path}: more than {MAX_FILE_SIZE} bytes, wanted one line of base64")
    text = text.strip()
    if not text.isascii():
        raise MalformedInput(f"{path}: not standard base64 (bytes that are no text)")
    return _Text(str(path), text) if text else None
