"""The security policy as a file: its text, or the base64 that a container group carries.

Spec: hcsshim, NewSecurityPolicyDigest: HOST_DATA is the SHA-256 of the decoded policy bytes.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from sidecar.errors import MalformedInput

_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]+={0,2}\s*")


def policy_text(data: bytes) -> bytes:
    """The policy's bytes, from its text or its base64.

    A policy is Rego: it has spaces and punctuation that base64 lacks, so the two cannot be mistaken.

    Raises:
        MalformedInput: empty, or base64 that does not decode to text.
    """
    if not data.strip():
        raise MalformedInput("security policy: empty")
    if not _BASE64.fullmatch(data.strip()) or b"package" in data:
        return data
    try:
        decoded = base64.b64decode(b"".join(data.split()), validate=True)
        decoded.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise MalformedInput("security policy: neither Rego nor the base64 of it") from exc
    return decoded


def policy_digest(data: bytes) -> bytes:
    """SHA-256 of the policy, 32 bytes: what HOST_DATA must be."""
    return hashlib.sha256(policy_text(data)).digest()
