"""Addresses of blobs: parsed once, strictly, with the signature kept apart and out of sight.

    https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH[?SAS]
    http://127.0.0.1:PORT/ACCOUNT/CONTAINER/PATH[?SAS]            an emulator on this machine

A shared access signature is a secret: it is never shown, and never part of `str`. Plain HTTP is refused but
for this machine's own addresses, because it would carry signatures, tokens and data in the clear.

Spec: Azure Storage, Naming and Referencing Containers, Blobs, and Metadata; Service SAS.

Kind: pure
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, urlsplit

from encfs.errors import UsageError

MAX_URL = 4096
_SAFE = re.compile(r"[!-~]+")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?")
_SAS_NAMES = frozenset(
    {"sv", "ss", "srt", "sp", "st", "se", "sr", "si", "sip", "spr", "sig", "ses", "skoid", "sktid", "skt"}
    | {"ske", "sks", "skv", "saoid", "suoid", "scid", "sdd", "rscc", "rscd", "rsce", "rscl", "rsct"}
)


@dataclass(frozen=True, slots=True)
class BlobUrl:
    """Where a blob is.

    Attributes:
        scheme: `https`, or `http` on this machine.
        host: name with an optional port, lower case.
        path: as given, percent-encoded, with the leading slash.
        sas: query of a shared access signature, **secret**; empty for none.
    """

    scheme: str
    host: str
    path: str
    sas: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}"

    @property
    def name(self) -> str:
        """Host and path, for a log line."""
        return f"{self.host}{self.path}"

    def with_sas(self, text: str) -> BlobUrl:
        """The same with a signature, as the portal shows it: with or without the question mark.

        Raises:
            UsageError: not a signature, or the address has one already.
        """
        if self.sas:
            raise UsageError(f"blob {self}: has a signature already", hint="give it once")
        return replace(self, sas=_checked_sas(text.strip().removeprefix("?"), str(self)))


def is_blob_url(text: str) -> bool:
    """Whether a word names a blob, and not a local file."""
    return text.lower().startswith(("https://", "http://"))


def parse_blob_url(text: str) -> BlobUrl:
    """Parse an address; may hold a signature, secret.

    Raises:
        UsageError: not an address of a blob; the message shows no query.
    """
    shown = text.partition("?")[0][:200]
    if len(text) > MAX_URL or not _SAFE.fullmatch(text):
        raise UsageError(
            f"blob {shown!r}: over {MAX_URL} characters, or one that is not printable ASCII",
            hint="percent-encode what is not ASCII",
        )
    try:
        parts = urlsplit(text)
    except ValueError:
        raise UsageError(f"blob {shown!r}: not an address") from None
    host = parts.netloc.lower()
    if parts.scheme.lower() not in ("https", "http") or not _HOST.fullmatch(host) or parts.fragment:
        hint = "https://ACCOUNT.blob.core.windows.net/CONTAINER/BLOB, no user and no fragment"
        raise UsageError(f"blob {shown!r}: not an address of a blob", hint=hint)
    if parts.scheme.lower() == "http" and not is_loopback(host):
        raise UsageError(
            f"blob {shown!r}: plain http, wanted https",
            hint="http is for emulators on this machine; elsewhere it would show data and signatures",
        )
    segments = parts.path.split("/")[1:]
    if len(segments) < 2 or not all(segments) or {".", ".."} & set(segments):
        raise UsageError(f"blob {shown!r}: wanted a container and a blob in the path")
    sas = _checked_sas(parts.query, shown) if parts.query else ""
    return BlobUrl(parts.scheme.lower(), host, parts.path, sas)


def is_loopback(host: str) -> bool:
    """Whether `host[:port]` is an address of this machine."""
    name = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) and not host.endswith("]") else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _checked_sas(query: str, shown: str) -> str:
    if len(query) > MAX_URL or not _SAFE.fullmatch(query) or "#" in query:
        raise UsageError(f"blob {shown}: its signature is not one line of printable ASCII")
    names = [name for name, _ in parse_qsl(query, keep_blank_values=True)]
    if "sig" not in names or len(set(names)) != len(names) or not _SAS_NAMES.issuperset(names):
        raise UsageError(
            f"blob {shown}: what follows the question mark is not a shared access signature",
            hint="it has sv, se, sp, sig and the like, each once; snapshots and versions cannot be named",
        )
    return query
