"""Chains on disk, one file per product line, chip and TCB.

A VCEK never changes for this key, so a file has no age. What is in it is verified like anything else that
comes from outside; the cache only saves a request to a service that limits them.

Rules: files are written whole or not at all; a cache that cannot be read or written is a miss, not an error.

Kind: adapter
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from sidecar.errors import MalformedInput
from sidecar.snp.certs import MAX_CHAIN_SIZE, CertificateChain, parse_chain_pem
from sidecar.snp.report import Report
from sidecar.snp.tcb import ProductLine

DIRECTORY_VARIABLE = "SIDECAR_CERTIFICATE_CACHE"

logger = logging.getLogger(__name__)


class CertificateCache:
    """A directory of PEM chains."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, report: Report, line: ProductLine) -> CertificateChain | None:
        """The chain kept for this chip and TCB, unverified, or None."""
        path = self._path(report, line)
        try:
            with path.open("rb") as file:
                return parse_chain_pem(file.read(MAX_CHAIN_SIZE + 1))
        except FileNotFoundError:
            return None
        except (OSError, MalformedInput) as exc:
            logger.info("certificate cache: %s is of no use: %s", path.name, exc)
            return None

    def write(self, report: Report, line: ProductLine, chain: CertificateChain) -> None:
        """Keep a chain that has been verified for this report."""
        path = self._path(report, line)
        temporary = path.with_suffix(f".{os.getpid()}.new")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(chain.to_pem())
            temporary.replace(path)
        except OSError as exc:
            logger.info("certificate cache: %s cannot be written: %s", path, exc.strerror)

    def _path(self, report: Report, line: ProductLine) -> Path:
        return self.directory / f"{line}-{report.chip_id.hex()}-{report.reported_tcb.hex}.pem"


def default_directory(environ: Mapping[str, str]) -> Path:
    """SIDECAR_CERTIFICATE_CACHE, else the user's cache directory."""
    if chosen := environ.get(DIRECTORY_VARIABLE):
        return Path(chosen)
    cache = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME') or '/root'}/.cache"
    return Path(cache) / "sidecar" / "certificates"
