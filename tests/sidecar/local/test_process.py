"""`sidecar local` as a process: one ready line, an environment file, and state that survives being killed."""

from __future__ import annotations

import shlex
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes.localcloud import RESOURCE, prepared

from sidecar.akvkeys import ImportRequest
from sidecar.jwk import jwk_of_secret
from sidecar.snp.software import SoftwareProcessor

READY = "sidecar local: ready "


@contextmanager
def process(
    directory: Path, snp: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A running `sidecar local` and the environment it wrote."""
    command = [
        sys.executable,
        "-m",
        "sidecar",
        "local",
        "--directory",
        str(directory),
        "--snp-directory",
        str(snp),
    ]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        try:
            line = run.stdout.readline()
            assert line.startswith(READY), run.stderr and run.stderr.read()
            text = Path(line.removeprefix(READY).rstrip("\n")).read_text()
            words = [shlex.split(entry)[1].split("=", 1) for entry in text.splitlines()]
            yield run, dict(words)
        finally:
            run.kill()


def keys(environment: dict[str, str], method: str, path: str, body: bytes | None = None) -> Any:
    """One authorized request to the managed HSM."""
    trust = ssl.create_default_context(cafile=environment["SIDECAR_CA_FILE"])
    with httpx.Client(verify=trust, trust_env=False) as http:
        token = http.get(
            environment["AZURE_POD_IDENTITY_AUTHORITY_HOST"] + "/metadata/identity/oauth2/token",
            params={"api-version": "2018-02-01", "resource": RESOURCE["mhsm"]},
            headers={"Metadata": "true"},
        ).json()["access_token"]
        return http.request(
            method,
            f"https://{environment['MHSM_ENDPOINT']}{path}?api-version=7.4",
            content=body,
            headers={"authorization": f"Bearer {token}"},
        )


def test_what_was_acknowledged_survives_sigkill(
    tmp_path: Path, cloud_template: Path, snp_processor: SoftwareProcessor
) -> None:
    directory = prepared(tmp_path / "state", cloud_template)
    body = ImportRequest(jwk_of_secret(bytes(32), kty="oct-HSM")).to_bytes()
    with process(directory, snp_processor.directory) as (run, environment):
        made = keys(environment, "PUT", "/keys/disk", body)
        assert made.status_code == 200
        run.send_signal(signal.SIGKILL)
        run.wait(10)
    with process(directory, snp_processor.directory) as (run, again):
        assert again == environment
        assert keys(again, "GET", "/keys/disk").json() == made.json()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_when_asked(
    tmp_path: Path, cloud_template: Path, snp_processor: SoftwareProcessor, number: signal.Signals
) -> None:
    directory = prepared(tmp_path / "state", cloud_template)
    with process(directory, snp_processor.directory) as (run, _):
        run.send_signal(number)
        out, err = run.communicate(timeout=20)
    assert out == ""
    assert "Traceback" not in err
    assert "not Azure" in err


def test_second_process_is_told_why(
    tmp_path: Path, cloud_template: Path, snp_processor: SoftwareProcessor
) -> None:
    directory = prepared(tmp_path / "state", cloud_template)
    with process(directory, snp_processor.directory):
        command = [sys.executable, "-m", "sidecar", "local", "--directory", str(directory)]
        command += ["--snp-directory", str(snp_processor.directory)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert second.returncode == 2
    assert second.stdout == ""
    assert "sidecar: error: " in second.stderr
    assert "in use by another cloud in a box" in second.stderr
    assert "sidecar: hint: " in second.stderr
