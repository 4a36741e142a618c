"""A security processor in software: real signatures under its own root, for machines without the hardware.

It proves nothing about the machine it runs on, and its certificates say so: organisation and root are named
"SOFTWARE, NOT HARDWARE". It is used only when asked for by name, and only a verifier that passes its root
explicitly (`Roots.of(processor.ark)`) accepts its reports.

Strategy: a directory holds an ARK and an ASK (RSA-4096, PSS, as AMD's), a chip secret and the firmware's TCB.
As on the real part, the VCEK is derived from chip secret and TCB, so a firmware update changes the signing
key, and the same TCB gives the same key again. Reports are version 3, of a Milan.

Rules: the directory has mode 0700, files 0600; creation happens once, under a lock file, and counts only when
its last file is there; the TCB is read for every report, so an update is seen by every process.

Spec: AMD 56860 (SNP firmware ABI), ATTESTATION_REPORT; AMD 57230, certificates and their extensions.

Kind: adapter
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from sidecar.errors import MalformedInput, ReportUnavailable
from sidecar.snp.certs import CertificateChain, Collateral, build_thim, parse_certificate
from sidecar.snp.flags import PlatformInfo
from sidecar.snp.leaf import Leaf, LeafKind
from sidecar.snp.report import FirmwareVersion, Report, build_report
from sidecar.snp.softissuer import LABEL, build_authority, build_vcek
from sidecar.snp.source import RawReport
from sidecar.snp.tcb import Cpuid, ProductLine, Tcb, TcbLayout

LINE = ProductLine.MILAN
DIRECTORY_VARIABLE = "SIDECAR_SNP_DIRECTORY"
DEFAULT_TCB = Tcb.of(TcbLayout.MILAN, boot_loader=4, tee=0, snp=0x18, microcode=0xDB)
# Azure's value in every report seen: ABI 0.31, SMT allowed, bit 17.
DEFAULT_POLICY = 0x3001F
DEFAULT_MEASUREMENT = hashlib.sha384(b"software security processor: no launch was measured").digest()
_CPUID = Cpuid(family=0x19, model=0x01, stepping=0x01)
_FIRMWARE = FirmwareVersion(1, 55, 29)
_PLATFORM = PlatformInfo.SMT_EN | PlatformInfo.ECC_EN | PlatformInfo.ALIAS_CHECK_COMPLETE
# Order of P-384's base point, FIPS 186-4 D.1.2.4.
_P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
_CACHE_SECONDS = 86400


class SoftwareProcessor:
    """One processor, kept in a directory; open it once per process."""

    def __init__(self, directory: Path, keys: _Keys) -> None:
        self.directory = directory
        self._keys = keys
        self._report_id = os.urandom(32)
        self._vceks: dict[bytes, tuple[ec.EllipticCurvePrivateKey, x509.Certificate]] = {}

    @classmethod
    def open(cls, directory: Path, *, create: bool = False) -> SoftwareProcessor:
        """Open the processor kept in `directory`; blocks for seconds when it has to make one.

        Args:
            create: make it when it is not there. Safe to call from several processes at once.

        Raises:
            ReportUnavailable: there is none and `create` is false, or the directory cannot be used.
            MalformedInput: its files do not parse.
        """
        try:
            if create:
                _create(directory)
            return cls(directory, _read_keys(directory))
        except OSError as exc:
            raise ReportUnavailable(
                f"software processor {directory}: {exc.strerror or exc}",
                hint=f"choose a writable directory with {DIRECTORY_VARIABLE}",
            ) from exc

    @property
    def ark(self) -> x509.Certificate:
        """Root certificate; trusted by nobody who does not ask for it."""
        return self._keys.ark

    @property
    def ask(self) -> x509.Certificate:
        """Intermediate certificate."""
        return self._keys.ask

    @property
    def vcek(self) -> x509.Certificate:
        """Leaf certificate for the current TCB."""
        return self._vcek(self.tcb)[1]

    @property
    def chain(self) -> CertificateChain:
        """The three certificates for the current TCB."""
        return self.chain_for(self.tcb)

    def chain_for(self, tcb: Tcb) -> CertificateChain:
        """The three certificates for any TCB, as AMD's key service would issue them."""
        return CertificateChain(self._vcek(tcb)[1], self.ask, self.ark)

    @property
    def chip_id(self) -> bytes:
        """64 bytes, public, the same for the life of the directory."""
        return hmac.digest(self._keys.chip_secret, b"chip id", "sha512")

    @property
    def tcb(self) -> Tcb:
        """TCB of the firmware, read from the directory each time."""
        try:
            raw = bytes.fromhex((self.directory / "tcb").read_text("ascii"))
        except (OSError, ValueError) as exc:
            raise ReportUnavailable(f"software processor {self.directory}: tcb unreadable: {exc}") from exc
        return Tcb(raw, TcbLayout.MILAN)

    def update_firmware(self, tcb: Tcb) -> None:
        """Change the TCB, and with it the signing key, for every process that has this processor open."""
        _write(self.directory / "tcb", tcb.raw.hex().encode())

    def thim_json(self) -> bytes:
        """Certificates for the current TCB in the form of Azure's host service."""
        tcb = self.tcb
        return build_thim(Collateral(self.chain_for(tcb), tcb.hex, _CACHE_SECONDS))

    def sign_report(
        self,
        report_data: bytes,
        *,
        host_data: bytes = bytes(32),
        vmpl: int = 0,
        policy: int = DEFAULT_POLICY,
        measurement: bytes = DEFAULT_MEASUREMENT,
    ) -> bytes:
        """Make and sign a report.

        Args:
            report_data: 64 bytes. host_data: 32 bytes. measurement: 48 bytes. All public.

        Returns:
            1184 bytes, public.

        Raises:
            MalformedInput: an argument has another size or range.
        """
        tcb = self.tcb
        unsigned = Report(
            version=3,
            report_data=report_data,
            measurement=measurement,
            host_data=host_data,
            policy=policy,
            vmpl=vmpl,
            reported_tcb=tcb,
            current_tcb=tcb,
            committed_tcb=tcb,
            launch_tcb=tcb,
            chip_id=self.chip_id,
            cpuid=_CPUID,
            current_version=_FIRMWARE,
            committed_version=_FIRMWARE,
            # As Azure's container hosts set them.
            family_id=b"\x01".ljust(16, b"\0"),
            image_id=b"\x02".ljust(16, b"\0"),
            platform_info=int(_PLATFORM),
            report_id=self._report_id,
        )
        signed = replace(unsigned, raw=build_report(unsigned)).signed
        r, s = decode_dss_signature(self._vcek(tcb)[0].sign(signed, ec.ECDSA(SHA384())))
        return build_report(replace(unsigned, signature_r=r, signature_s=s))

    def source(self, *, host_data: bytes = bytes(32)) -> SoftwareSource:
        """This processor behind the seam that hardware uses."""
        return SoftwareSource(self, host_data)

    def _vcek(self, tcb: Tcb) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        """Signing key and certificate of a TCB; derived, so equal in every process."""
        if tcb.raw not in self._vceks:
            seed = hmac.digest(self._keys.chip_secret, b"vcek" + tcb.raw, "sha384")
            number = int.from_bytes(seed, "big") % (_P384_ORDER - 1) + 1
            key = ec.derive_private_key(number, ec.SECP384R1())
            self._vceks[tcb.raw] = key, self._issue(key.public_key(), tcb)
        return self._vceks[tcb.raw]

    def _issue(self, key: ec.EllipticCurvePublicKey, tcb: Tcb) -> x509.Certificate:
        leaf = Leaf(LeafKind.VCEK, 0, f"{LINE}-B0", tcb, self.chip_id, None)
        return build_vcek(leaf, key, self.ask.subject, self._keys.ask_key, now=datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class SoftwareSource:
    """`ReportSource` of the software processor."""

    processor: SoftwareProcessor
    host_data: bytes
    name: str = "software"
    is_hardware: bool = False

    async def read_report(self, report_data: bytes) -> RawReport:
        """Sign a report over `report_data`, 64 bytes; see `ReportSource`."""
        report = await trio.to_thread.run_sync(
            lambda: self.processor.sign_report(report_data, host_data=self.host_data)
        )
        return RawReport(report)


def default_directory(environ: Mapping[str, str]) -> Path:
    """SIDECAR_SNP_DIRECTORY, else the user's state directory."""
    if chosen := environ.get(DIRECTORY_VARIABLE):
        return Path(chosen)
    home = environ.get("HOME") or "/root"
    state = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
    return Path(state) / "sidecar" / "software-snp"


@dataclass(frozen=True, slots=True)
class _Keys:
    """What the directory keeps; both secrets are redacted."""

    ark: x509.Certificate
    ask: x509.Certificate
    ask_key: rsa.RSAPrivateKey
    chip_secret: bytes

    def __repr__(self) -> str:
        return "_Keys(...)"


def _read_keys(directory: Path) -> _Keys:
    if not (directory / "tcb").exists():
        raise ReportUnavailable(
            f"software processor {directory}: none there",
            hint="it is made by the command that uses it first",
        )
    try:
        key = load_pem_private_key((directory / "ask.key").read_bytes(), None)
    except ValueError as exc:
        raise MalformedInput(f"software processor {directory}: ask.key does not parse") from exc
    if not isinstance(key, rsa.RSAPrivateKey):
        raise MalformedInput(f"software processor {directory}: ask.key is no RSA key")
    return _Keys(
        ark=parse_certificate((directory / "ark.pem").read_bytes()),
        ask=parse_certificate((directory / "ask.pem").read_bytes()),
        ask_key=key,
        chip_secret=(directory / "chip.secret").read_bytes(),
    )


def _create(directory: Path) -> None:
    """Make what is missing; the file `tcb` comes last and says that all of it is there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / "tcb").exists():
            return
        ark_key = rsa.generate_private_key(65537, 4096)
        ask_key = rsa.generate_private_key(65537, 4096)
        now = datetime.now(UTC)
        name = f"ARK-{LINE} ({LABEL})"
        ark = build_authority(name, None, ark_key, ark_key, path_length=None, now=now)
        ask = build_authority(f"SEV-{LINE}", ark.subject, ask_key, ark_key, path_length=0, now=now)
        for name, content in {
            "ark.key": _private_pem(ark_key),
            "ask.key": _private_pem(ask_key),
            "ark.pem": ark.public_bytes(Encoding.PEM),
            "ask.pem": ask.public_bytes(Encoding.PEM),
            "chip.secret": os.urandom(48),
            "tcb": DEFAULT_TCB.raw.hex().encode(),
        }.items():
            _write(directory / name, content)
    finally:
        os.close(lock)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, mode 0600."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    temporary.rename(path)


def _private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
