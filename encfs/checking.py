"""`encfs check`: header, keyslot, digest and file system of an image in one report; changes nothing.

Kind: composition
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import trio

from encfs.blobs import BlobAccess
from encfs.exposing import exposed, run_tool
from encfs.keys import Secret, offered_fingerprint
from encfs.opening import UnlockOptions, open_place, volume_of

# e2fsck(8): bit 2 is "errors left uncorrected"; with -n nothing is ever corrected.
_CLEAN = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its name, whether it passed, and what was seen."""

    name: str
    ok: bool
    detail: str


async def check_image(place: Path | BlobAccess, passphrase: Secret, options: UnlockOptions) -> list[Finding]:
    """Check an image with its key.

    Raises:
        ImageError: the header is not one we accept.
        WrongKey: no keyslot opens.
    """
    image = await open_place(place, options, read_only=True)
    try:
        unlocked = await trio.to_thread.run_sync(image.unlock, passphrase, options)
    except BaseException:
        with trio.CancelScope(shield=True):
            await image.source.aclose()
        raise
    finally:
        image.close_header()
    warnings = image.header.warnings
    findings = [
        Finding("header", not warnings, "; ".join(warnings) or "both copies are good and agree"),
        Finding("keyslot", True, f"keyslot {unlocked.keyslot} opens, and the digest confirms the volume key"),
        Finding("key", True, _fingerprint(passphrase)),
        Finding("header MAC", True, _authentication(unlocked.authenticated)),
    ]
    if options.root_hash is not None:
        findings.append(Finding("hash tree", True, "header and keyslots match the root hash"))
    async with exposed(volume_of(image, unlocked)) as data:
        code, output = await run_tool("e2fsck", "-f", "-n", str(data))
    findings.append(Finding("file system", code == _CLEAN, _e2fsck_words(code, output)))
    return findings


def _fingerprint(passphrase: Secret) -> str:
    fingerprint = offered_fingerprint(passphrase)
    return f"key check value {fingerprint}" if fingerprint else "a typed passphrase has no fingerprint"


def _authentication(authenticated: bool) -> str:
    return "matches the volume key" if authenticated else "none in this image (made by another tool)"


def _e2fsck_words(code: int, output: str) -> str:
    """The line that matters of what e2fsck said."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if code == _CLEAN:
        summary = next((line for line in lines if re.search(r"\d+/\d+ files", line)), "")
        journal = "; its journal waits for replay" if "journal" in output and "skipping" in output else ""
        return "clean" + (f" ({summary.partition(': ')[2]})" if summary else "") + journal
    problems = [line for line in lines if not line.startswith(("e2fsck ", "Pass "))]
    return f"e2fsck found errors (exit code {code}): " + " | ".join(problems[:5])
