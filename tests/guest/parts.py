"""Kernel and programs of the guest, gathered once into the user's cache.

The kernel is Debian's cloud build: a quarter of the size of the general one, with ext4 built in and
device-mapper as modules. Its package is downloaded and unpacked, never installed. The programs are the host's
own packages. The cache is keyed by all of them, so an update of any makes a new guest.

Rules: builders exclude each other with a lock, and publish a whole folder by renaming it, so a reader never
sees half a guest and a killed builder leaves nothing that looks finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guest import cpio

KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
# Program in the guest -> the Debian package it comes from.
PROGRAMS = {
    "busybox": "busybox-static",
    "cryptsetup": "cryptsetup-bin",
    "veritysetup": "cryptsetup-bin",
    "integritysetup": "cryptsetup-bin",
    "dmsetup": "dmsetup",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "blockdev": "util-linux",
    "setfattr": "attr",
    "getfattr": "attr",
}
EMULATOR = ("qemu-system-x86_64", "qemu-system-x86")
# What the guest loads, besides what these depend on. The ciphers are named because the guest has no module
# aliases: the kernel could not find `xts(aes)` or `authenc(hmac(sha256),xts(aes))` by itself.
MODULES = (
    *("virtio_pci", "virtio_blk", "aesni-intel", "xts", "gcm", "authenc", "algif_skcipher", "algif_hash"),
    *("dm-crypt", "dm-integrity", "dm-verity", "loop"),
)
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /mnt /files
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd; mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
while read -r module; do insmod "/modules/$module" || echo "guest: cannot load $module"; done </modules/order
for port in 1 2; do stty -F /dev/ttyS$port raw; done
cd /files
{ sh /job 2>&1; echo $? >/run/status; } | head -c LIMIT >/dev/ttyS1
cat /run/status >/dev/ttyS2
sync
poweroff -f
"""
_SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_APT_TIMEOUT = 300.0


class GuestUnavailable(Exception):
    """This machine cannot run the guest; the message says what it lacks."""


def find(program: str) -> Path | None:
    """Where a program lies, the administrator's folders included."""
    found = shutil.which(program, path=_SEARCH)
    return Path(found).resolve() if found else None


def missing() -> list[str]:
    """Debian packages that the guest needs and this machine lacks; empty when it can run."""
    if platform.machine() != "x86_64":
        return [f"an x86-64 machine (this one is {platform.machine()})"]
    wanted = [*PROGRAMS.items(), EMULATOR]
    return sorted({package for program, package in wanted if find(program) is None})


def _apt(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_APT_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise GuestUnavailable(f"{' '.join(command)}: {exc}") from exc
    if done.returncode:
        raise GuestUnavailable(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _kernel_package() -> str:
    """The package that Debian's metapackage stands for now, such as `linux-image-6.1.0-50-cloud-amd64`."""
    for attempt in (1, 2):
        text = _apt("apt-cache", "depends", KERNEL_METAPACKAGE) if attempt == 2 or _has_lists() else ""
        if match := re.search(r"Depends: (linux-image-\d\S+)", text):
            return match.group(1)
        if attempt == 1:
            _apt("apt-get", "update", "-qq")
    raise GuestUnavailable(f"{KERNEL_METAPACKAGE} names no kernel package")


def _has_lists() -> bool:
    """Whether package lists were ever fetched on this machine; a fresh container has none."""
    return any(Path("/var/lib/apt/lists").glob("*_Packages*"))


def _unpack_kernel(package: str, into: Path) -> Path:
    """Downloads and unpacks the kernel package; returns the folder it was unpacked to."""
    download = ("apt-get", "-o", "APT::Sandbox::User=root", "download", package)
    try:
        _apt(*download, cwd=into)
    except GuestUnavailable:
        # Lists older than the archive name a version that is gone.
        _apt("apt-get", "update", "-qq")
        _apt(*download, cwd=into)
    (archive,) = into.glob("*.deb")
    unpacked = into / "kernel"
    _apt("dpkg", "-x", str(archive), str(unpacked))
    return unpacked


def _depends(module: Path) -> list[str]:
    """Modules that one needs loaded before it, from its `.modinfo` section."""
    match = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [name for name in match.group(1).decode().split(",") if name] if match else []


def _name(path: Path) -> str:
    """A module's name as the kernel knows it, whatever its file is called."""
    return path.stem.replace("-", "_")


def _module_files(kernel: Path) -> list[Path]:
    """Files of MODULES and of what they depend on, in an order they can be loaded in."""
    by_name = {_name(path): path for path in kernel.rglob("*.ko")}
    built_in = {
        _name(Path(line)) for path in kernel.rglob("modules.builtin") for line in path.read_text().split()
    }
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        key = name.replace("-", "_")
        if key in ordered or key in built_in:
            return
        if key not in by_name:
            raise GuestUnavailable(f"the kernel package has no module {name}")
        for other in _depends(by_name[key]):
            add(other)
        ordered[key] = by_name[key]

    for name in MODULES:
        add(name)
    return list(ordered.values())


def _libraries(program: Path) -> list[Path]:
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, timeout=10)
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", done.stdout)]


def _program_entries() -> list[cpio.Entry]:
    """The programs with the libraries they are linked to, at the host's places."""
    entries = {"sbin/mkfs.ext4": cpio.link("sbin/mkfs.ext4", "mke2fs")}
    for name in PROGRAMS:
        program = find(name)
        if program is None:
            raise GuestUnavailable(f"no {name}: install {PROGRAMS[name]}")
        place = "bin/busybox" if name == "busybox" else f"sbin/{name}"
        entries[place] = cpio.file(place, program.read_bytes(), executable=True)
        for library in _libraries(program):
            place = str(library).lstrip("/")
            entries[place] = cpio.file(place, library.read_bytes(), executable=True)
    return list(entries.values())


def _base(kernel: Path, output_limit: int) -> bytes:
    modules = _module_files(kernel)
    order = "".join(f"{path.name}\n" for path in modules)
    return cpio.archive(
        [
            cpio.file("init", INIT.replace("LIMIT", str(output_limit)).encode(), executable=True),
            cpio.file("modules/order", order.encode()),
            *(cpio.file(f"modules/{path.name}", path.read_bytes()) for path in modules),
            *_program_entries(),
        ]
    )


def _fingerprint(output_limit: int) -> str:
    """Changes with the recipe of this module and with any of the host's programs."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + str(output_limit).encode())
    for name in PROGRAMS:
        if program := find(name):
            status = program.stat()
            recipe.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return recipe.hexdigest()[:12]


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attested-volumes"


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _publish(package: str, target: Path, output_limit: int) -> None:
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as name:
        work = Path(name)
        kernel = _unpack_kernel(package, work)
        (image,) = (kernel / "boot").glob("vmlinuz-*")
        ready = work / "ready"
        ready.mkdir()
        shutil.copyfile(image, ready / "vmlinuz")
        (ready / "base.cpio").write_bytes(_base(kernel, output_limit))
        ready.rename(target)


def gather(output_limit: int) -> Path:
    """Finds or builds the guest's parts.

    Args:
        output_limit: bytes of output a job may print before it is cut.

    Returns:
        A folder with `vmlinuz` and `base.cpio`.

    Raises:
        GuestUnavailable: a package is missing, or the kernel cannot be downloaded.
    """
    if lacking := missing():
        raise GuestUnavailable(f"missing: {' '.join(lacking)}")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with _exclusive(cache / "guest.lock"):
        package = _kernel_package()
        target = cache / f"guest-{package.removeprefix('linux-image-')}-{_fingerprint(output_limit)}"
        if not target.is_dir():
            _publish(package, target, output_limit)
    return target
