"""Speed of a volume in a page blob, against what the same store gives to curl in the same run.

    sudo .venv/bin/python benchmarks/blob.py [--size 512] [--rounds 3]

The store is Azurite in memory, on loopback; with latency, a proxy in front of it holds every request back. In
each round every measure takes its turn, so that a noisy machine is noisy for all; figures are medians. Every
measure starts cold: a new driver, an empty page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fakes.azurite import azurite  # noqa: E402
from fakes.blobservice import BlobService  # noqa: E402

from benchmarks.quiet import kept_memory  # noqa: E402

MIB = 1 << 20
ENCFS = str(Path(sys.executable).parent / "encfs")
LATENCY = 0.010
ONE_AT_A_TIME = 512 << 10
# The predecessor's figures, measured where one curl stream got 480 MB/s.
PREDECESSOR_IOPS = 282
PREDECESSOR_CURL = 480e6
RANDOM_SECONDS = 5.0


class Bench:
    """One image in one store.

    Args:
        folder: for the image, the key and mount points.
        service: the store.
        slow: address of the same store through the proxy.
        size: bytes of the file in the image.
    """

    def __init__(self, folder: Path, service: BlobService, slow: str, size: int) -> None:
        self.folder = folder
        self.service = service
        self.size = size
        self.slow = BlobService(slow, service.account, service.key)
        self.key = folder / "key.bin"
        self.key.touch(mode=0o600)
        self.key.write_bytes(os.urandom(32))
        self.sas = folder / "sas"
        self.sas.touch(mode=0o600)
        self.sas.write_text(service.sas())
        self.name = self._upload()

    def _upload(self) -> str:
        """An encrypted image with one large file, as a page blob."""
        content, image = self.folder / "content", self.folder / "data.img"
        content.mkdir()
        with (content / "file").open("wb") as file:
            for _ in range(self.size // MIB):
                file.write(os.urandom(MIB))
        size = f"{self.size // MIB + 128}M"
        words = ("create", image, "--size", size, "--key-file", self.key, "--from", content, "--json")
        subprocess.run([ENCFS, *words], check=True, stdout=subprocess.DEVNULL)
        name = self.service.page_blob(size=image.stat().st_size)
        with image.open("rb") as file:
            offset = 0
            while data := file.read(4 * MIB):
                if any(data):
                    self.service.put_page(name, offset, data)
                offset += len(data)
        image.unlink()
        (content / "file").unlink()
        return name

    @contextlib.contextmanager
    def served(self, how: str, service: BlobService, *options: str) -> Iterator[Path]:
        """The volume, mounted or exposed."""
        drop_caches()
        point = self.folder / "point"
        point.mkdir(exist_ok=True)
        url = str(service.url(self.name, ""))
        words = [ENCFS, how, url, point, "--key-file", self.key, "--sas-file", self.sas, *options]
        if how == "mount":
            subprocess.run(words, check=True, timeout=60)
            try:
                yield point
            finally:
                subprocess.run([ENCFS, "unmount", point], check=True, timeout=120)
            return
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                yield point / "data"
            finally:
                process.terminate()
                process.wait(120)

    # -- measures ---------------------------------------------------------------------------------

    def curl(self) -> float:
        """Bytes a second of one curl stream."""
        return curl(self.service, self.name)

    def curl_slow(self) -> float:
        return curl(self.slow, self.name)

    def sequential(self) -> float:
        """Bytes a second of reading the file through the mount."""
        with self.served("mount", self.service, "--read-only") as point:
            return read_file(point / "file")

    def sequential_slow(self) -> float:
        with self.served("mount", self.slow, "--read-only") as point:
            return read_file(point / "file")

    def one_at_a_time(self) -> float:
        """Bytes a second of a client that asks for 512 KiB, waits, and asks again, with latency."""
        parts = urlsplit(self.slow.base)
        address = f"{parts.path}/images/{self.name}?{self.service.sas()}"
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        count = 64
        start = time.perf_counter()
        for number in range(count):
            first = 16 * MIB + number * ONE_AT_A_TIME
            span = f"bytes={first}-{first + ONE_AT_A_TIME - 1}"
            connection.request("GET", address, headers={"x-ms-range": span, "x-ms-version": "2023-11-03"})
            assert len(connection.getresponse().read()) == ONE_AT_A_TIME
        connection.close()
        return count * ONE_AT_A_TIME / (time.perf_counter() - start)

    def bare(self) -> float:
        """Requests a second of a bare client that asks for 4 KiB, waits, and asks again."""
        return self._bare(1)

    def bare_four(self) -> float:
        return self._bare(4)

    def _bare(self, clients: int) -> float:
        parts, tls = urlsplit(self.service.base), self.service.tls
        address = f"{parts.path}/images/{self.name}?{self.service.sas()}"
        host, port = parts.hostname or "", parts.port

        def client(read: Callable[[], int | None]) -> None:
            connection = http.client.HTTPConnection(host, port)
            if tls is not None:
                connection = http.client.HTTPSConnection(host, port, context=tls)
            while (first := read()) is not None:
                span = f"bytes={first}-{first + 4095}"
                lines = {"x-ms-range": span, "x-ms-version": "2023-11-03"}
                connection.request("GET", address, headers=lines)
                assert len(connection.getresponse().read()) == 4096
            connection.close()

        return at_random(self.size, clients, client)

    def random(self) -> float:
        """Reads a second of 4 KiB at random places, one after the other, no place twice."""
        return self._random(1)

    def random_four(self) -> float:
        return self._random(4)

    def _random(self, readers: int) -> float:
        with self.served("expose", self.service, "--read-only") as data:
            fd = os.open(data, os.O_RDONLY)

            def reader(read: Callable[[], int | None]) -> None:
                while (first := read()) is not None:
                    os.pread(fd, 4096, first)

            try:
                return at_random(self.size, readers, reader)
            finally:
                os.close(fd)

    def write(self) -> float:
        """Bytes a second of writing a new file through the mount, up to and including fsync."""
        with self.served("mount", self.service) as point:
            block = os.urandom(MIB)
            start = time.perf_counter()
            with (point / "new").open("wb", buffering=0) as file:
                for _ in range(64):
                    file.write(block)
                os.fsync(file.fileno())
            speed = 64 * MIB / (time.perf_counter() - start)
            (point / "new").unlink()
            return speed

    def fsync(self) -> float:
        """Milliseconds of a write of 4 KiB and its fsync on the device."""
        with self.served("expose", self.service) as data:
            fd = os.open(data, os.O_RDWR)
            page = os.pread(fd, 4096, self.size)
            samples = []
            for _ in range(100):
                start = time.perf_counter()
                os.pwrite(fd, page, self.size)
                os.fsync(fd)
                samples.append(time.perf_counter() - start)
            os.close(fd)
            return statistics.median(samples) * 1000

    def ready(self) -> float:
        """Seconds from the start of the command until the volume is mounted."""
        start = time.perf_counter()
        with self.served("mount", self.service):
            return time.perf_counter() - start


def at_random(size: int, count: int, work: Callable[[Callable[[], int | None]], None]) -> float:
    """Reads a second that `count` threads do together, each at the places it is given, no place twice."""
    places = iter(random.sample(range(size // 4096), size // 4096))
    start, done = time.perf_counter(), 0

    def read() -> int | None:
        nonlocal done
        if time.perf_counter() - start > RANDOM_SECONDS or (page := next(places, None)) is None:
            return None
        done += 1
        return page * 4096

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, read) for _ in range(count)]:
            future.result()
    return done / (time.perf_counter() - start)


def curl(service: BlobService, name: str) -> float:
    address = f"{service.base}/images/{name}?{service.sas()}"
    words = ["curl", "-s", "-f", "-o", "/dev/null", "-w", "%{speed_download}", address]
    words += ["--cacert", service.ca_file] if service.ca_file else []
    return float(subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout)


def read_file(path: Path) -> float:
    buffer = memoryview(bytearray(MIB))
    total = 0
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return total / (time.perf_counter() - start)


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


@contextlib.contextmanager
def slow_address(base: str) -> Iterator[str]:
    """The store behind a proxy that adds latency, in a process of its own."""
    place, _, path = base.removeprefix("http://").partition("/")
    words = [sys.executable, ROOT / "tests" / "fakes" / "faultproxy.py", place, "--latency", str(LATENCY)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline().split()[1]
        yield f"http://127.0.0.1:{port}/{path}"
    finally:
        process.stdin.close()
        process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of the file in the image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="NAME,...", help="measures to take")
    parser.add_argument("--tls", action="store_true", help="over TLS, and so without measures of latency")
    words = parser.parse_args()
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_memory())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="blob-bench-")))
        service = stack.enter_context(azurite(folder, tls=words.tls))
        os.environ.update(service.environment)
        # Nothing looks into TLS to hold a request back.
        slow = service.base if words.tls else stack.enter_context(slow_address(service.base))
        bench = Bench(folder, service, slow, words.size * MIB)
        names = words.only.split(",") if words.only else list(MEASURES)
        if words.tls:
            names = [name for name in names if name not in ("curl_slow", "one_at_a_time", "sequential_slow")]
        samples: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(words.rounds):
            for name in names:
                samples[name].append(MEASURES[name](bench))
        print_table({name: statistics.median(values) for name, values in samples.items()})


MEASURES: dict[str, Callable[[Bench], float]] = {
    "curl": Bench.curl,
    "sequential": Bench.sequential,
    "bare": Bench.bare,
    "random": Bench.random,
    "bare_four": Bench.bare_four,
    "random_four": Bench.random_four,
    "write": Bench.write,
    "fsync": Bench.fsync,
    "ready": Bench.ready,
    "curl_slow": Bench.curl_slow,
    "one_at_a_time": Bench.one_at_a_time,
    "sequential_slow": Bench.sequential_slow,
}


def print_table(medians: dict[str, float]) -> None:
    units = {"fsync": "ms", "ready": "s"} | dict.fromkeys(
        ("bare", "random", "bare_four", "random_four"), "IOPS"
    )
    targets = {}
    if "curl" in medians:
        targets["sequential"] = 0.6 * medians["curl"]
        targets["random"] = 4 * PREDECESSOR_IOPS * medians["curl"] / PREDECESSOR_CURL
        targets["random_four"] = targets["random"]
    if "one_at_a_time" in medians:
        targets["sequential_slow"] = 8 * medians["one_at_a_time"]
    for name, value in medians.items():
        unit = units.get(name, "MB/s")
        scale = 1e-6 if unit == "MB/s" else 1
        line = f"{name:18}{value * scale:10.1f} {unit:6}"
        if name in targets:
            line += f"  wanted {targets[name] * scale:8.1f}  ({value / targets[name]:.2f} x)"
        print(line)


if __name__ == "__main__":
    main()
