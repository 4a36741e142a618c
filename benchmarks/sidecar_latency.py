"""Latency, throughput and memory of the sidecar with the software processor and the cloud in a box.

    .venv/bin/python benchmarks/sidecar_latency.py [--requests N] [--tasks 32] [--soak 10000]

Starts both as processes on loopback and prints: medians of one request at a time and of many at once; a
release beside the vault's own round trips; and the sidecar's resident memory over `--soak` releases, as a
curve. The cloud in a box is part of every figure: it signs, verifies and wraps for real, on the same machine.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import secrets
import shlex
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import trio

from sidecar.wrapping import WrappingKey

BIN = Path(sys.executable).parent
CONFIG = {"claims": [[{"claim": "x-ms-sevsnpvm-is-debuggable", "equals": "false"}]]}
SAMPLES = 40  # points of the memory curve
WIDTH = 50  # characters of its bars

Ask = Callable[[], Awaitable[httpx.Response]]


@contextlib.contextmanager
def serving(words: list[str], environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A command that prints one ready line; the line and its process id. SIGTERM at the end."""
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as p:
        assert p.stdout is not None
        try:
            yield p.stdout.readline().strip(), p.pid
        finally:
            p.terminate()
            p.wait(20)


async def measure(ask: Ask, requests: int, tasks: int) -> list[float]:
    """Seconds of each of `requests` requests made by `tasks` tasks, sorted; any failure ends the program."""
    times: list[float] = []
    left = iter(range(requests))

    async def work() -> None:
        for _ in left:
            start = time.perf_counter()
            answer = await ask()
            times.append(time.perf_counter() - start)
            if answer.status_code != 200:
                raise SystemExit(f"{answer.request.url.path}: {answer.status_code} {answer.text[:300]}")

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)
    return sorted(times)


async def latency(name: str, ask: Ask, requests: int, tasks: int) -> float:
    """Print one row; the median of one request at a time, seconds."""
    alone = await measure(ask, requests, 1)
    start = time.perf_counter()
    many = await measure(ask, requests, tasks)
    rate = requests / (time.perf_counter() - start)
    cells = [statistics.median(alone), alone[int(len(alone) * 0.99)], statistics.median(many)]
    print(f"{name:32}" + "".join(f"{cell * 1000:9.1f} ms" for cell in cells) + f"{rate:12.0f}", flush=True)
    return cells[0]


def posting(client: httpx.AsyncClient, path: str, body: object) -> Ask:
    return lambda: client.post(path, json=body)


async def beside_the_vault(
    client: httpx.AsyncClient, release: Ask, environment: dict[str, str], requests: int
) -> None:
    """A release with a token at hand beside round trips to the vault without the sidecar, taken in turn."""
    key = f"https://{environment['MHSM_ENDPOINT']}/keys/bench"
    identity = f"{environment['AZURE_POD_IDENTITY_AUTHORITY_HOST']}/metadata/identity/oauth2/token"
    query = {"api-version": "2018-02-01", "resource": "https://managedhsm.azure.net"}
    runtime = base64.b64encode(WrappingKey.generate().runtime_data()).decode()
    asked = {"maa_endpoint": environment["MAA_ENDPOINT"], "runtime_data": runtime}
    target = (await client.post("/attest/maa", json=asked)).json()["token"]
    trust = ssl.create_default_context(cafile=environment["SIDECAR_CA_FILE"])
    async with httpx.AsyncClient(verify=trust, trust_env=False, timeout=60) as vault:
        found = await vault.get(identity, params=query, headers={"Metadata": "true"})
        headers = {"authorization": f"Bearer {found.json()['access_token']}"}
        body = {"target": target, "enc": "RSA_AES_KEY_WRAP_256"}
        version = {"api-version": "7.4"}
        asks: dict[str, Ask] = {
            "GET key": lambda: vault.get(key, params=version, headers=headers),
            "POST release": lambda: vault.post(f"{key}/release", params=version, headers=headers, json=body),
            "": release,
        }
        times: dict[str, list[float]] = {name: [] for name in asks}
        for _ in range(requests):
            for name, ask in asks.items():
                times[name] += await measure(ask, 1, 1)
    one = statistics.median(times.pop(""))
    print(f"\n/key/release with a token at hand: p50 {one * 1000:.1f} ms")
    for name, trips in times.items():
        trip = statistics.median(trips)
        print(f"  vault round trip, {name:12} p50 {trip * 1000:5.1f} ms: {one / trip:.2f} round trips")


def resident(pid: int) -> int:
    """Resident memory of a process, KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1])  # type: ignore[index]


async def soak(release: Ask, pid: int, requests: int, tasks: int) -> None:
    """Resident memory over many releases."""
    print(f"\nresident memory of the sidecar over {requests} releases, {tasks} at once:")
    done, curve = 0, [(0, resident(pid))]
    step = max(requests // SAMPLES, 1)
    while done < requests:
        await measure(release, step, tasks)
        done += step
        curve.append((done, resident(pid)))
    top = max(size for _, size in curve)
    for count, size in curve:
        print(f"{count:8} {size / 1024:7.1f} MiB {'#' * round(size / top * WIDTH)}")
    half = len(curve) // 2
    print(f"growth over the second half: {(curve[-1][1] - curve[half][1]) / 1024:+.1f} MiB")


async def run(
    addresses: dict[str, str], pid: int, environment: dict[str, str], options: argparse.Namespace
) -> None:
    maa, hsm = environment["MAA_ENDPOINT"], environment["MHSM_ENDPOINT"]
    release = {"maa_endpoint": maa, "akv_endpoint": hsm, "kid": "bench"}
    bodies: list[tuple[str, str, object]] = [
        ("reuse", "/attest/raw", {"runtime_data": "aGVsbG8="}),
        ("reuse", "/attest/combined", {"runtime_data": "aGVsbG8="}),
        ("reuse", "/attest/maa", {"maa_endpoint": maa, "runtime_data": "e30="}),
        ("fresh", "/key/release", release),
        ("reuse", "/key/release", release),
    ]
    many = f"p50 of {options.tasks}"
    print(f"{'':32}{'p50 alone':>12}{'p99 alone':>12}{many:>12}{'per second':>12}")
    limits = httpx.Limits(max_connections=options.tasks)
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(
                httpx.AsyncClient(base_url=address, timeout=60, trust_env=False, limits=limits)
            )
            for name, address in addresses.items()
        }
        for name, path, body in bodies:
            words = path + {"fresh": " --fresh", "reuse": ""}[name]
            await latency(words, posting(clients[name], path, body), options.requests, options.tasks)
        ask = posting(clients["reuse"], "/key/release", release)
        await beside_the_vault(clients["reuse"], ask, environment, options.requests)
        if options.soak:
            await soak(ask, pid, options.soak, options.tasks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--soak", type=int, default=10_000, help="releases of the memory curve; 0 for none")
    parser.add_argument("--distance", type=float, default=0, metavar="MS", help="added to every vault answer")
    options = parser.parse_args()
    sidecar = str(BIN / "sidecar")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        environment = dict(os.environ) | {
            "SIDECAR_SNP_DIRECTORY": str(folder / "snp"),
            "SIDECAR_SNP": "software",
        }
        local = [sidecar, "local", "--directory", str(folder / "cloud"), "--no-throttle"]
        if options.distance:
            local += ["--fault", f"mhsm:delay={options.distance / 1000}"]
        stack.enter_context(serving(local, environment))
        for line in (folder / "cloud" / "env").read_text().splitlines():
            key, _, value = shlex.split(line)[1].partition("=")
            environment[key] = value
        place = {"endpoint": environment["MAA_ENDPOINT"]}, {"endpoint": environment["MHSM_ENDPOINT"]}
        described = {"kid": "bench", "authority": place[0], "akv": place[1]}
        (folder / "import.json").write_text(json.dumps({"key": described} | CONFIG))
        words = [sidecar, "import-key", "-c", str(folder / "import.json"), "-kh", secrets.token_hex(32)]
        subprocess.run(words, env=environment, check=True, capture_output=True)
        serve = [sidecar, "serve", "--host", "127.0.0.1", "--port", "0"]
        ready, pid = stack.enter_context(serving(serve, environment))
        fresh, _ = stack.enter_context(serving([*serve, "--fresh"], environment))
        addresses = {
            kind: re.sub(r".*(http://)", r"\1", line) for kind, line in (("reuse", ready), ("fresh", fresh))
        }
        trio.run(run, addresses, pid, environment, options)


if __name__ == "__main__":
    main()
