"""Builds the images skr and encfs: `scripts/build-images [--base IMAGE] [--out DIR] [skr] [encfs]`.

What a build needs from outside is fetched first: Debian packages as apt resolves them against the base's own
list of packages, and Python packages as scripts/constraints.txt pins them. The build itself runs without a
network, with every time set to SOURCE_DATE_EPOCH (default: the last commit's), so that two builds give one
digest.

Without --base, a minimal Debian is made by mmdebstrap from the host's own sources. What was fetched is kept
below --cache and used again while the lists that asked for it are the same; --fresh fetches anew.

Prints a line for each image: name, digest, bytes beyond the base. Needs root, buildah, and apt for packages.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NAMES = ("skr", "encfs")
SUITE = "bookworm"
# Uncompressed, beyond the base; a build that is larger fails.
LIMITS = {"skr": 150 << 20, "encfs": 200 << 20}
BASE = "localhost/attested-volumes-base:latest"
# What compiling needs besides our own dependencies.
BUILD_TOOLS = (
    "pip",
    "setuptools",
    "setuptools-scm",
    "Cython",
    "packaging",
    "typing_extensions",
    "vcs-versioning",
)
SOURCE_ONLY = "pyfuse3"  # has no wheel: compiled against the base's libfuse
# Documentation and translations that no program here reads.
EXCLUDED = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")


class BuildError(Exception):
    """A step failed; the text says which, and the last it printed."""


def run(*words: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a program to its end; what it wrote to standard output."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"{words[0]} {words[1]}: exit code {done.returncode}: {done.stderr[-2000:].strip()}")
    return done.stdout


@dataclass(frozen=True)
class Storage:
    """buildah's storage below one folder; nothing of the machine's own is touched."""

    folder: Path

    def buildah(self, command: str, *words: str | Path, offline: bool = False) -> str:
        """Run buildah; `offline` in a network namespace where there is nothing, not even loopback."""
        options = (
            "--storage-driver",
            "vfs",
            "--root",
            self.folder / "root",
            "--runroot",
            self.folder / "run",
        )
        return run(*(("unshare", "--net") if offline else ()), "buildah", *options, command, *words).strip()

    def has(self, image: str) -> bool:
        """Whether it is there."""
        return image in self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()

    def file(self, image: str, path: str) -> bytes:
        """A file of an image."""
        container = self.buildah("from", "--pull-never", image)
        try:
            return (Path(self.buildah("mount", container)) / path).read_bytes()
        finally:
            self.buildah("rm", container)


def packages(name: str) -> list[str]:
    """The Debian packages that a list asks for."""
    lines = (HERE / "packages" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def kept(folder: Path, *asked: bytes) -> bool:
    """Whether a folder holds what was fetched for the same question; emptied when not."""
    stamp = hashlib.sha256(b"\0".join(asked)).hexdigest()
    if folder.is_dir() and (folder / ".stamp").is_file() and (folder / ".stamp").read_text() == stamp:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / ".asked").write_text(stamp)
    return False


def complete(folder: Path) -> None:
    """From now on `kept` is true."""
    (folder / ".asked").rename(folder / ".stamp")


# -- what comes from outside ----------------------------------------------------------------------


def make_base(storage: Storage, cache: Path, epoch: str) -> str:
    """A minimal Debian, made by mmdebstrap; its name in the storage."""
    folder = cache / "base"
    if not kept(folder, SUITE.encode(), repr(EXCLUDED).encode()):
        words = ["mmdebstrap", "--mode=root", "--variant=essential", "--dpkgopt=force-unsafe-io"]
        words += [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED]
        made = folder / "base.tar"
        run(*words, SUITE, made, *host_sources(), environment={"SOURCE_DATE_EPOCH": epoch})
        complete(folder)
    stamp = (folder / ".stamp").read_text()
    named = f"localhost/attested-volumes-base:{stamp[:12]}"
    if not storage.has(named):
        container = storage.buildah("from", "scratch")
        storage.buildah("add", container, folder / "base.tar", "/")
        storage.buildah("commit", "-q", "--rm", "--timestamp", epoch, container, named)
    return named


def host_sources() -> Iterator[Path]:
    """The files of the host's own apt that know the suite."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    found = [
        path
        for path in files
        if path.suffix in (".list", ".sources") and path.is_file() and f" {SUITE}" in path.read_text()
    ]
    if not found:
        raise BuildError(f"apt: no source of the host has the suite {SUITE}; give --base IMAGE")
    return iter(found)


def fetch_debs(name: str, status: bytes, cache: Path) -> Path:
    """Debian packages of a list and what they need, as the base lacks them; a folder of .deb files."""
    folder = cache / "debs" / name
    if kept(folder, status, " ".join(packages(name)).encode()):
        return folder
    (folder / "partial").mkdir()
    (folder / ".state").mkdir()
    (folder / ".state" / "status").write_bytes(status)
    words = [
        *("apt-get", "-qq", "-y", "--no-install-recommends", "--download-only"),
        *("-o", f"Dir::State::status={folder}/.state/status", "-o", "Dir::State::extended_states=/dev/null"),
        *("-o", f"Dir::Cache={folder}/.state", "-o", f"Dir::Cache::archives={folder}/"),
        *(
            "-o",
            "Debug::NoLocking=1",
            "-o",
            "APT::Keep-Downloaded-Packages=1",
            "-o",
            "APT::Sandbox::User=root",
        ),
        *("install", *packages(name)),
    ]
    try:
        run(*words)
    except BuildError:  # the host's lists are missing or old
        run("apt-get", "update", "-qq")
        run(*words)
    for left in (folder / "partial", folder / ".state"):
        shutil.rmtree(left)
    (folder / "lock").unlink(missing_ok=True)
    complete(folder)
    return folder


def pins() -> dict[str, str]:
    """Canonical name to pinned requirement."""
    lines = (ROOT / "scripts" / "constraints.txt").read_text().split()
    return {line.partition("==")[0].lower().replace("_", "-"): line for line in lines}


def runtime_names() -> list[str]:
    """Our dependencies and theirs, without extras that nobody asked for."""
    found: set[str] = set()
    ask = [("attested-volumes", "")]
    while ask:
        name, extra = ask.pop()
        for text in importlib.metadata.requires(name) or []:
            wanted = Requirement(text)
            if wanted.marker and not wanted.marker.evaluate({"extra": extra, "python_version": "3.11"}):
                continue
            ask += [(wanted.name, each) for each in ("", *wanted.extras) if wanted.name.lower() not in found]
            found.add(wanted.name.lower().replace("_", "-"))
    return sorted(found)


def fetch_wheels(cache: Path) -> Path:
    """Pinned Python packages: wheels for Debian's Python, and the source of what has none."""
    folder = cache / "wheels"
    known = pins()
    names = runtime_names()
    wheels = [known[name] for name in names if name != SOURCE_ONLY]
    wheels += [known[key] for name in BUILD_TOOLS if (key := name.lower().replace("_", "-")) in known]
    if kept(folder, " ".join(wheels).encode(), known[SOURCE_ONLY].encode()):
        return folder
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder)
    run(*pip, "--only-binary=:all:", "--python-version=3.11", "--implementation=cp", *sorted(set(wheels)))
    constraints = ROOT / "scripts/constraints.txt"
    run(*pip, f"--no-binary={SOURCE_ONLY}", "--build-constraint", constraints, known[SOURCE_ONLY])
    complete(folder)
    return folder


# -- the build ------------------------------------------------------------------------------------


def export_source(target: Path) -> None:
    """The files that our wheel is made from: what git knows, as it lies here."""
    listed = run("git", "ls-files", "-z", "--", "encfs", "sidecar", "pyproject.toml", "README.md", "LICENSE",
                 "scripts/constraints.txt", cwd=ROOT)  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def lay_context(target: Path, debs: dict[str, Path], wheels: Path) -> None:
    """Everything a build sees."""
    for name, folder in debs.items():
        shutil.copytree(
            folder, target / "debs" / name, copy_function=os.link, ignore=shutil.ignore_patterns(".*")
        )
    shutil.copytree(wheels, target / "wheels", copy_function=os.link, ignore=shutil.ignore_patterns(".*"))
    export_source(target / "source")
    for name in (*NAMES, "debs.sh", "install.sh", "healthcheck", "sbom.py"):
        if (HERE / name).is_dir():
            shutil.copytree(HERE / name, target / name)
        else:
            shutil.copy2(HERE / name, target / name)


@dataclass(frozen=True)
class Built:
    """One image: `size` in bytes beyond the base, uncompressed."""

    name: str
    tag: str
    digest: str
    size: int


def fingerprint(context: Path, base: str, epoch: str) -> str:
    """Of everything that an image is made from."""
    found = hashlib.sha256(f"{base} {epoch}".encode())
    for path in sorted(p for p in context.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(context)} {path.stat().st_mode}".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def build_or_keep(asked: argparse.Namespace, name: str, base: str, context: Path, epoch: str) -> Built:
    """Build an image, unless the last build was from the same files and --reuse allows it."""
    storage = Storage(asked.storage or asked.cache / "storage")
    stamp = asked.cache / f"{name}.built.json"
    made_from = fingerprint(context, base, epoch)
    if asked.reuse and stamp.is_file():
        kept = json.loads(stamp.read_text())
        if kept["from"] == made_from and storage.has(kept["image"]["tag"]):
            return Built(**kept["image"])
    built = build(storage, name, base, context, epoch, asked.out)
    stamp.write_text(json.dumps({"from": made_from, "image": asdict(built)}))
    return built


def build(storage: Storage, name: str, base: str, context: Path, epoch: str, out: Path) -> Built:
    """Build one image and write it to `out/NAME` in containers/image's `dir` form."""
    version = importlib.metadata.version("attested-volumes")
    tag = f"localhost/attested-volumes/{name}:{version}"
    revision = run("git", "rev-parse", "HEAD", cwd=ROOT).strip()
    arguments = {"BASE": base, "VERSION": version, "REVISION": revision, "SOURCE_DATE_EPOCH": epoch}
    words: list[str] = [w for key, value in arguments.items() for w in ("--build-arg", f"{key}={value}")]
    words += ["--quiet", "--isolation", "chroot", "--pull-never", "--no-cache", "--format", "docker"]
    words += ["--timestamp", epoch, "-t", tag, "-f", str(context / name / "Containerfile")]
    storage.buildah("build", *words, context, offline=True)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    storage.buildah("push", "--format", "v2s2", "--digestfile", out / f"{name}.digest", tag, f"dir:{folder}")
    sbom = Path("usr/share/sbom") / f"{name}.cdx.json"
    (out / sbom.name).write_bytes(storage.file(tag, str(sbom)))
    return Built(name, tag, (out / f"{name}.digest").read_text().strip(), beyond_base(storage, base, folder))


def beyond_base(storage: Storage, base: str, folder: Path) -> int:
    """Bytes of files in the layers that the base does not have."""
    theirs = json.loads(storage.buildah("inspect", "--type", "image", base))["OCIv1"]["rootfs"]["diff_ids"]
    manifest = json.loads((folder / "manifest.json").read_text())
    total = 0
    for layer in manifest["layers"][len(theirs) :]:
        with tarfile.open(folder / layer["digest"].removeprefix("sha256:")) as tar:
            total += sum(member.size for member in tar if member.isfile())
    return total


def options() -> argparse.Namespace:
    """Command line."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(prog="build-images", description=__doc__.partition("\n")[0])
    parser.add_argument("image", nargs="*", help="skr, encfs (default: both)")
    parser.add_argument("--base", help="an image in the storage, or one that buildah can pull: Debian 12")
    parser.add_argument("--cache", type=Path, default=home / "attested-volumes" / "images")
    parser.add_argument("--storage", type=Path, help="buildah's storage (default: below the cache)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "images", help="where the images go")
    parser.add_argument("--reuse", action="store_true", help="keep images that were made from the same files")
    parser.add_argument("--fresh", action="store_true", help="fetch everything anew")
    found = parser.parse_args()
    if unknown := set(found.image) - set(NAMES):
        parser.error(f"no such image: {', '.join(sorted(unknown))}")
    return found


def main() -> None:
    """Fetch, build, print."""
    asked = options()
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    if asked.fresh:
        shutil.rmtree(asked.cache, ignore_errors=True)
    asked.cache.mkdir(parents=True, exist_ok=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    storage = Storage(asked.storage or asked.cache / "storage")
    names = asked.image or list(NAMES)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        wheels = pool.submit(fetch_wheels, asked.cache)
        if asked.base:
            storage.buildah("pull", "-q", "--policy", "missing", asked.base)
        base = asked.base or make_base(storage, asked.cache, epoch)
        status = storage.file(base, "var/lib/dpkg/status")
        debs = {name: fetch_debs(name, status, asked.cache) for name in ("build", *names)}
        with tempfile.TemporaryDirectory(prefix="context-", dir=asked.cache) as folder:
            lay_context(Path(folder), debs, wheels.result())
            one = partial(build_or_keep, asked, base=base, context=Path(folder), epoch=epoch)
            built = list(pool.map(one, names))
    for image in built:
        print(f"{image.name} {image.digest} {image.size / (1 << 20):.1f} MiB beyond the base, {image.tag}")
    for image in built:
        if image.size > LIMITS[image.name]:
            raise BuildError(
                f"{image.name}: {image.size} bytes beyond the base, wanted {LIMITS[image.name]} at most"
            )


if __name__ == "__main__":
    try:
        main()
    except BuildError as exc:
        sys.exit(f"build-images: error: {exc}")
