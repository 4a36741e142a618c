"""The API held against its own description by schemathesis: as published, and with hosts that exist."""

from __future__ import annotations

import base64
import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from fakes.localcloud import Client
from fakes.sidecarserver import sidecar_served

from sidecar import __version__
from sidecar.jwk import jwk_of_secret
from sidecar.openapi import document
from sidecar.releasepolicy import build_policy

HOST_DATA = "x-ms-sevsnpvm-hostdata"


async def judged(address: str, folder: Path, described: Any, examples: int) -> None:
    """Run schemathesis with all of its checks; its findings fail the test."""
    (folder / "openapi.json").write_text(json.dumps(described))
    command = [Path(sys.executable).parent / "schemathesis", "run", folder / "openapi.json"]
    options = ["--url", address, "--checks", "all", "--max-examples", examples, "--seed", 1, "--no-color"]
    with trio.fail_after(120):
        done = await trio.run_process(
            [str(word) for word in [*command, *options, "--suppress-health-check", "all"]],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=folder,
        )
    output = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, output[-8000:]
    assert f"Tested: {len(described['paths'])}" in output, output[-2000:]


async def test_as_published(here: Client, tmp_path: Path) -> None:
    async with sidecar_served(here.cloud.environment) as served, served.http() as client:
        published = (await client.get("/openapi.json")).json()
        assert published == document(__version__)
        await judged(served.addresses["http"], tmp_path, published, 15)


@pytest.mark.slow
async def test_with_what_exists(
    start_cloud: Any, quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valid requests get through to the services here, so success and refusal are held against it too."""
    async with start_cloud(throttled=False) as cloud:
        for name, value in cloud.cloud.environment.items():
            monkeypatch.setenv(name, value)
        policy = build_policy([cloud.cloud.url("maa")], [[(HOST_DATA, "00" * 32)]])
        key = jwk_of_secret(bytes(32), kty="oct-HSM", key_ops=("encrypt", "decrypt"))
        await cloud.imported("mhsm", "data", key, policy)
        described = copy.deepcopy(document(__version__))
        names = cloud.cloud.environment
        known: dict[str, list[str]] = {
            "maa_endpoint": [names["MAA_ENDPOINT"]],
            "akv_endpoint": [names["MHSM_ENDPOINT"], names["AKV_ENDPOINT"]],
            "kid": ["data", "nothing"],
        }
        paths: Any = described["paths"]
        for route in ("/attest/maa", "/key/release"):
            schema = paths[route]["post"]["requestBody"]["content"]["application/json"]["schema"]
            for name, values in known.items():
                if name in schema["properties"]:
                    schema["properties"][name] = {"type": "string", "enum": values}
            if route == "/attest/maa":
                texts = [base64.b64encode(data).decode() for data in (b"{}", b'{"a": [1]}')]
                schema["properties"]["runtime_data"] = {"type": "string", "enum": texts}
        async with sidecar_served(names) as served, served.http() as client:
            await judged(served.addresses["http"], tmp_path, described, 10)
            text = (await client.get("/metrics")).text
        for route in ("attest-raw", "attest-combined", "attest-maa", "key-release"):
            assert f'sidecar_requests_total{{route="{route}",status="200"}}' in text
        assert 'status="5' not in text


def test_every_answer_of_the_description_is_of_its_shapes() -> None:
    described: Any = document("1")
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            assert "200" in operation["responses"]
