"""The virtual TPM: a stale report is never taken for a fresh one."""

from __future__ import annotations

import errno
import hashlib
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from fakes.snp_tpm import DATA_INDEX, REPORT_INDEX, Tpm
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from sidecar.errors import MalformedInput, ReportUnavailable, SourceAbsent
from sidecar.snp import tpm
from sidecar.snp.report import parse_report
from sidecar.snp.software import SoftwareProcessor
from sidecar.snp.vtpm import VtpmSource

DATA = bytes(range(64))


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that jumps when nothing happens, a thread at work looks like nothing."""

    async def inline(call: Callable[..., object], *arguments: object) -> object:
        return call(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", inline)


async def test_fresh_report(snp_processor: SoftwareProcessor) -> None:
    device = Tpm(snp_processor.sign_report)
    raw = await VtpmSource(transmit=device.transmit).read_report(DATA)
    assert DATA.hex().upper().encode() in raw.runtime_data
    assert parse_report(raw.report).report_data == hashlib.sha256(raw.runtime_data).digest() + bytes(32)
    assert device.indexes[DATA_INDEX] == DATA


async def test_stale_reports_are_waited_out(
    snp_processor: SoftwareProcessor, autojump_clock: MockClock, no_threads: None
) -> None:
    device = Tpm(snp_processor.sign_report, delay=6)
    start = trio.current_time()
    raw = await VtpmSource(transmit=device.transmit).read_report(DATA)
    assert DATA.hex().upper().encode() in raw.runtime_data
    assert trio.current_time() - start == pytest.approx(3.0)


async def test_a_report_that_never_comes(
    snp_processor: SoftwareProcessor, autojump_clock: MockClock, no_threads: None
) -> None:
    device = Tpm(snp_processor.sign_report, delay=10_000)
    with pytest.raises(ReportUnavailable, match="no report over the new data after 15 seconds"):
        await VtpmSource(transmit=device.transmit).read_report(DATA)


async def test_an_index_of_another_size_is_made_anew(snp_processor: SoftwareProcessor) -> None:
    device = Tpm(snp_processor.sign_report)
    device.indexes[DATA_INDEX] = bytearray(32)
    await VtpmSource(transmit=device.transmit).read_report(DATA)
    assert device.indexes[DATA_INDEX] == DATA
    assert device.commands[:4] == [0x169, 0x169, 0x122, 0x12A]


async def test_old_hosts_cannot_make_it_fresh(snp_processor: SoftwareProcessor) -> None:
    device = Tpm(snp_processor.sign_report, names_data=False)
    with pytest.raises(ReportUnavailable, match="no user-data"):
        await VtpmSource(transmit=device.transmit).read_report(DATA)


async def test_another_tpm_is_absent(snp_processor: SoftwareProcessor) -> None:
    device = Tpm(snp_processor.sign_report)
    del device.indexes[REPORT_INDEX]
    with pytest.raises(SourceAbsent, match="no index 0x1400001"):
        await VtpmSource(transmit=device.transmit).read_report(DATA)


async def test_refusals_are_named() -> None:
    with pytest.raises(ReportUnavailable, match="TPM error 0x921"):
        await VtpmSource(transmit=lambda _: Tpm.error(0x921)).read_report(DATA)


async def test_absent_and_forbidden_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = VtpmSource(tmp_path / "tpmrm0")
    with pytest.raises(SourceAbsent, match="not there"):
        await source.read_report(DATA)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("os.open", refuse)
        with pytest.raises(ReportUnavailable, match="cannot be opened"):
            await source.read_report(DATA)


async def test_a_device_that_is_no_tpm() -> None:
    with pytest.raises(MalformedInput, match="response of 0 bytes"):
        await VtpmSource(Path("/dev/null")).read_report(DATA)


@pytest.mark.parametrize(
    "response",
    [b"", bytes(9), struct.pack(">HII", 0x8001, 11, 0), struct.pack(">HII", 0x8001, 10, 0)],
)
def test_responses_that_do_not_parse(response: bytes) -> None:
    with pytest.raises(MalformedInput):
        tpm.parse_public_size(response)
    with pytest.raises(MalformedInput):
        tpm.parse_read(response, 4)


def test_public_areas_that_do_not_parse() -> None:
    def response(public: bytes, size: int | None = None) -> bytes:
        body = struct.pack(">H", len(public) if size is None else size) + public
        return struct.pack(">HII", 0x8001, 10 + len(body), 0) + body

    good = struct.pack(">IHIHH", 1, 0xB, 0, 0, 64)
    assert tpm.parse_public_size(response(good)) == 64
    with_policy = struct.pack(">IHIH4sH", 1, 0xB, 0, 4, b"poli", 64)
    assert tpm.parse_public_size(response(with_policy)) == 64
    for bad in (good[:-1], good + b"x", struct.pack(">IHIHH", 1, 0xB, 0, 0, 20_000)):
        with pytest.raises(MalformedInput):
            tpm.parse_public_size(response(bad))
    with pytest.raises(MalformedInput, match="cut short"):
        tpm.parse_public_size(response(good, 15))


@given(st.binary(max_size=80))
def test_any_response_ends_in_a_value_or_a_typed_error(data: bytes) -> None:
    for parse in (tpm.parse_public_size, lambda d: tpm.parse_read(d, 4), tpm.parse_done):
        try:
            parse(data)
        except (MalformedInput, tpm.TpmRefusal):
            continue


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[socket.socket]:
    """A complete software TPM, for its opinion of our commands."""
    if shutil.which("swtpm") is None:
        pytest.skip("needs swtpm")
    address = tmp_path / "tpm"
    options = ["--flags", "not-need-init,startup-clear", "--server", f"type=unixio,path={address}"]
    process = subprocess.Popen(["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={tmp_path}", *options])
    connection = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + 10
    try:
        while connection.connect_ex(str(address)):
            assert process.poll() is None, "swtpm ended"
            assert time.monotonic() < deadline, "swtpm did not start"
        yield connection
    finally:
        connection.close()
        process.terminate()
        process.wait(timeout=10)


def test_a_real_tpm_agrees(swtpm: socket.socket) -> None:
    def transmit(command: bytes) -> bytes:
        swtpm.sendall(command)
        return swtpm.recv(tpm.MAX_RESPONSE_SIZE)

    with pytest.raises(tpm.TpmRefusal) as caught:
        tpm.parse_public_size(transmit(tpm.read_public_command(DATA_INDEX)))
    assert caught.value.is_absent
    tpm.parse_done(transmit(tpm.define_command(DATA_INDEX, 64)))
    assert tpm.parse_public_size(transmit(tpm.read_public_command(DATA_INDEX))) == 64
    tpm.parse_done(transmit(tpm.write_command(DATA_INDEX, DATA)))
    assert tpm.parse_read(transmit(tpm.read_command(DATA_INDEX, 0, 64)), 64) == DATA
    assert tpm.parse_read(transmit(tpm.read_command(DATA_INDEX, 60, 4)), 4) == DATA[60:]
    tpm.parse_done(transmit(tpm.undefine_command(DATA_INDEX)))
    with pytest.raises(tpm.TpmRefusal):
        tpm.parse_done(transmit(tpm.undefine_command(DATA_INDEX)))
