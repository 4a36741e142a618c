"""Reports through configfs-tsm, the interface of Linux 6.7 and later: a folder of attributes per request.

Strategy: a fresh folder with a name of our own, inputs written, outputs read; `generation` is read around
it all. It counts successful writes, so a count other than ours means that somebody else wrote to our folder,
and what was read may answer their question: the folder is dropped and another one is used.

Rules: the folder is removed in every case; the report must be over the data we wrote; a privilege level is
written when one is asked for or when the floor is above zero, because the default of zero would then fail.

Spec: Documentation/ABI/testing/configfs-tsm; drivers/virt/coco/tsm.c of Linux 6.7.

Kind: adapter
"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from sidecar.errors import MalformedInput, ReportUnavailable, SourceAbsent
from sidecar.snp import guestabi as abi
from sidecar.snp.certtable import MAX_TABLE_SIZE
from sidecar.snp.firmware import Failed, FirmwareSource, Pacer
from sidecar.snp.guestabi import Diagnosis, Remedy
from sidecar.snp.report import REPORT_SIZE
from sidecar.snp.source import RawReport

DIRECTORY = Path("/sys/kernel/config/tsm/report")
PROVIDER = "sev_guest"
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP)


class ConfigfsSource(FirmwareSource):
    """`ReportSource` over configfs-tsm."""

    name = "configfs-tsm"
    attempts = 5

    def __init__(
        self, directory: Path = DIRECTORY, *, vmpl: int | None = None, pacer: Pacer | None = None
    ) -> None:
        super().__init__(str(directory), pacer)
        self._directory = directory
        self._vmpl = vmpl

    def request(self, report_data: bytes) -> RawReport:
        """One report through a folder of its own; see `FirmwareSource`."""
        entry = self._make_entry()
        try:
            raw = _exchange(entry, report_data, self._vmpl)
        except OSError as exc:
            raise Failed(_diagnose(exc.errno or 0)) from exc
        finally:
            _remove(entry)
        abi.require_report_data(raw.report, report_data)
        return raw

    def _make_entry(self) -> Path:
        entry = self._directory / f"sidecar-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            entry.mkdir(0o700)
        except OSError as exc:
            if exc.errno in _ABSENT:
                raise SourceAbsent(f"{self._directory}: no report provider ({exc.strerror})") from exc
            raise ReportUnavailable(
                f"{self._directory}: cannot be used: {exc.strerror}",
                hint="it can be used by root, or by a container that was given configfs",
            ) from exc
        return entry


def _exchange(entry: Path, report_data: bytes, vmpl: int | None) -> RawReport:
    provider = _read(entry / "provider", 256).decode("ascii", "replace").strip()
    if provider != PROVIDER:
        raise SourceAbsent(f"{entry.parent}: provider {provider!r}, wanted {PROVIDER!r}")
    generation = _generation(entry)
    for name, value in _inputs(entry, report_data, vmpl):
        _write(entry / name, value)
        generation += 1
    # auxblob first, as both come from one request; the first read is the one that asks the firmware.
    table = _read(entry / "auxblob", MAX_TABLE_SIZE)
    _require_generation(entry, generation)
    report = _read(entry / "outblob", REPORT_SIZE)
    _require_generation(entry, generation)
    return RawReport(report, table)


def _inputs(entry: Path, report_data: bytes, vmpl: int | None) -> list[tuple[str, bytes]]:
    inputs = [("inblob", report_data)]
    level = max(_floor(entry), vmpl or 0)
    if vmpl is not None or level > 0:
        inputs.append(("privlevel", b"%d" % level))
    return inputs


def _floor(entry: Path) -> int:
    """The lowest level this guest may ask for: its own; 0 where the kernel does not say."""
    try:
        return _number(entry / "privlevel_floor")
    except FileNotFoundError:
        return 0


def _generation(entry: Path) -> int:
    return _number(entry / "generation")


def _require_generation(entry: Path, wanted: int) -> None:
    if _generation(entry) != wanted:
        raise Failed(Diagnosis(Remedy.RETRY, "somebody else wrote to our folder"))


def _number(path: Path) -> int:
    text = _read(path, 64).strip()
    if not text.isdigit():
        raise MalformedInput(f"{path}: {text[:32]!r}, wanted a number")
    return int(text)


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        data = bytearray()
        while piece := file.read(limit + 1 - len(data)):
            data += piece
    if len(data) > limit:
        raise MalformedInput(f"{path}: more than {limit} bytes")
    return bytes(data)


def _write(path: Path, value: bytes) -> None:
    """One write: the kernel takes a value per call and counts it as one generation."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        written = os.write(descriptor, value)
    finally:
        os.close(descriptor)
    if written != len(value):
        raise OSError(errno.EIO, f"{written} of {len(value)} bytes written")


def _remove(entry: Path) -> None:
    """A folder that cannot be removed harms nobody, and must not hide what happened before."""
    try:
        entry.rmdir()
    except OSError:
        return


def _diagnose(code: int) -> Diagnosis:
    """The same driver is below, so its errors mean what they mean for the device."""
    if code == errno.EBUSY:
        return Diagnosis(Remedy.RETRY, "EBUSY: the generation counter is full, or two providers clash")
    return abi.diagnose(code, None)
