"""Latency and throughput of the sidecar's HTTP API with the software processor and the cloud in a box.

    .venv/bin/python benchmarks/sidecar_latency.py [--requests 200] [--tasks 32]

Starts both as processes on loopback, asks one request at a time, then many at once, and prints medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import trio

BIN = Path(sys.executable).parent
CONFIG = {"claims": [[{"claim": "x-ms-sevsnpvm-is-debuggable", "equals": "false"}]]}


@contextlib.contextmanager
def serving(words: list[str], environment: dict[str, str]) -> Iterator[str]:
    """A command that prints one ready line; SIGTERM at the end."""
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as p:
        assert p.stdout is not None
        try:
            yield p.stdout.readline().strip()
        finally:
            p.terminate()
            p.wait(20)


async def measure(
    client: httpx.AsyncClient, path: str, body: object, requests: int, tasks: int
) -> list[float]:
    """Seconds of each of `requests` requests made by `tasks` tasks."""
    times: list[float] = []
    left = iter(range(requests))

    async def work() -> None:
        for _ in left:
            start = time.perf_counter()
            answer = await client.post(path, json=body)
            times.append(time.perf_counter() - start)
            if answer.status_code != 200:
                raise SystemExit(f"{path}: {answer.status_code} {answer.text[:300]}")

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)
    return times


async def run(address: str, bodies: dict[str, object], requests: int, tasks: int) -> None:
    print(f"{'':20}{'p50 alone':>12}{'p99 alone':>12}{f'p50 of {tasks}':>12}{'per second':>12}")
    async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:
        for path, body in bodies.items():
            alone = sorted(await measure(client, path, body, requests, 1))
            start = time.perf_counter()
            many = await measure(client, path, body, requests, tasks)
            rate = requests / (time.perf_counter() - start)
            cells = [statistics.median(alone), alone[int(len(alone) * 0.99)], statistics.median(many)]
            print(f"{path:20}" + "".join(f"{cell * 1000:9.1f} ms" for cell in cells) + f"{rate:12.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        environment = dict(os.environ) | {
            "SIDECAR_SNP_DIRECTORY": str(folder / "snp"),
            "SIDECAR_SNP": "software",
        }
        local = [str(BIN / "sidecar"), "local", "--directory", str(folder / "cloud"), "--no-throttle"]
        stack.enter_context(serving(local, environment))
        for line in (folder / "cloud" / "env").read_text().splitlines():
            key, _, value = shlex.split(line)[1].partition("=")
            environment[key] = value
        maa, hsm = environment["MAA_ENDPOINT"], environment["MHSM_ENDPOINT"]
        key = {"kid": "bench", "authority": {"endpoint": maa}, "akv": {"endpoint": hsm}}
        (folder / "import.json").write_text(json.dumps({"key": key} | CONFIG))
        words = [
            str(BIN / "sidecar"),
            "import-key",
            "-c",
            str(folder / "import.json"),
            "-kh",
            secrets.token_hex(32),
        ]
        subprocess.run(words, env=environment, check=True, capture_output=True)
        ready = stack.enter_context(serving([str(BIN / "sidecar"), "serve", "--port", "0"], environment))
        address = re.sub(r".*(http://)", r"\1", ready)
        bodies = {
            "/attest/raw": {"runtime_data": "aGVsbG8="},
            "/attest/maa": {"maa_endpoint": maa, "runtime_data": "e30="},
            "/key/release": {"maa_endpoint": maa, "akv_endpoint": hsm, "kid": "bench"},
        }
        trio.run(run, address, bodies, arguments.requests, arguments.tasks)


if __name__ == "__main__":
    main()
