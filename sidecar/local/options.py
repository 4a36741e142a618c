"""Settings of the cloud in a box, and the command line options that make them.

Kind: pure
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.errors import UsageError
from sidecar.local.faults import SERVICES, FaultScript

EPILOG = """\
The services are local stand-ins, not Azure. They verify for real: report signature and certificate
chain, runtime data, access tokens, attestation tokens and release policies. They prove nothing about
this machine, and the keys they hold lie in a file: try things here, keep real secrets elsewhere.

Addresses are https://localhost:PORT (imds: http://127.0.0.1:PORT). SIDECAR_MANAGED_HSM_HOSTS tells the
managed HSM from the vault, because names below localhost do not resolve everywhere. Vaults hold no
symmetric keys: import those into the managed HSM. The blob account is BLOB_ENDPOINT, with a container
`images` and a signature in the file BLOB_SAS_FILE. A shell reads the environment file:  . FILE

faults: SERVICE[/ROUTE]:ITEM[,ITEM...]   services maa, akv, mhsm, imds, sts, kds, blob or *
  items: status=N code=WORD inner=WORD retry-after=S delay=S cut=BYTES expired times=N after=N clock=S
  e.g. akv/release:status=429,retry-after=2,times=3   maa/attest:cut=100   imds/token:expired
       maa:clock=-600   blob/put-page:cut=0,after=5,times=2 (done, but the answer is lost)
"""


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Settings of one cloud in a box.

    Attributes:
        directory: its state: certificates, keys, database.
        snp_directory: the software processor whose reports it accepts and whose certificates it serves.
        env_file: where to write the environment; `directory/env` when None.
        ports: service to port; others are remembered from the last run, or free ones the first time.
        faults: the fault script's rules.
        identities: managed identities of the host; with more than one, clients must name theirs.
        compliance: `x-ms-compliance-status` that the authority asserts for software evidence.
        throttled: keep the vault's limits (10 releases in 10 s).
    """

    directory: Path
    snp_directory: Path
    env_file: Path | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    identities: int = 1
    compliance: str | None = None
    throttled: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sidecar local` to a parser."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--directory", type=Path, help="state (default: the user's state directory)")
    parser.add_argument(
        "--snp-directory", type=Path, help="software processor (default: SIDECAR_SNP_DIRECTORY)"
    )
    parser.add_argument(
        "--env-file", type=Path, help="where to write the environment (default: DIRECTORY/env)"
    )
    parser.add_argument("--port", action="append", default=[], metavar="SERVICE=PORT", help="fix a port")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="SPEC", help="script a fault, see below"
    )
    parser.add_argument(
        "--identities", type=int, default=1, metavar="N", help="managed identities of the host"
    )
    parser.add_argument(
        "--compliance", metavar="WORD", help="x-ms-compliance-status to assert, e.g. azure-compliant-uvm"
    )
    parser.add_argument(
        "--no-throttle", action="store_true", help="drop the vault's limit of 10 releases in 10 s"
    )


def settings_of(
    arguments: argparse.Namespace, environ: Mapping[str, str], snp_directory: Path
) -> LocalSettings:
    """Settings from parsed options.

    Args:
        snp_directory: the default place of the software processor.

    Raises:
        UsageError: a port, a fault or a number is wrong.
    """
    FaultScript.parse(arguments.fault)
    if not 1 <= arguments.identities <= 16:
        raise UsageError(f"--identities {arguments.identities}: wanted 1 to 16")
    return LocalSettings(
        directory=arguments.directory or default_directory(environ),
        snp_directory=arguments.snp_directory or snp_directory,
        env_file=arguments.env_file,
        ports=dict(_port(text) for text in arguments.port),
        faults=tuple(arguments.fault),
        identities=arguments.identities,
        compliance=arguments.compliance,
        throttled=not arguments.no_throttle,
    )


def default_directory(environ: Mapping[str, str]) -> Path:
    """Where state lies unless a directory is named."""
    home = environ.get("HOME") or "/root"
    return Path(environ.get("XDG_STATE_HOME") or f"{home}/.local/state") / "sidecar" / "local"


def _port(text: str) -> tuple[str, int]:
    service, _, port = text.partition("=")
    if service not in SERVICES or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UsageError(f"--port {text}: wanted SERVICE=PORT, SERVICE one of {', '.join(SERVICES)}")
    return service, int(port)
