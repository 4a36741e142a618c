"""A group of real containers: runc, one network namespace, one shared folder, and for each the privileges of
images/privileges.json.

Each container is a bundle of its own over a root file system that buildah mounted. Everything has a bound on
its time, and `Group.end` takes all of it down again, however the test ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PRIVILEGES = json.loads((ROOT / "images" / "privileges.json").read_text())
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SEARCH = os.environ["PATH"] + ":/usr/sbin:/sbin"
# In Kubernetes' words, and in those of mount and runc.
PROPAGATION = {"Bidirectional": "rshared", "HostToContainer": "rslave", None: "rprivate"}
LOOPS = 64


def run(*words: str | Path, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    done = subprocess.run(
        [str(word) for word in words],
        env=os.environ | {"PATH": SEARCH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, f"{words}: {done.returncode}: {done.stdout} {done.stderr}"
    return done


def devices(names: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """Nodes for device names: path, type, major, minor."""
    known = {
        "fuse": [("/dev/fuse", "c", 10, 229)],
        "loop-control": [("/dev/loop-control", "c", 10, 237)],
        "loop": [(f"/dev/loop{number}", "b", 7, number) for number in range(LOOPS)],
    }
    return [node for name in names for node in known[name]]


@dataclass
class Group:
    """Containers that share a network namespace, a `state` folder and a `shared` folder below `folder`."""

    folder: Path
    images: Mapping[str, Path]
    containers: dict[str, Container] = field(default_factory=dict)
    overlays: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"attested-{os.getpid()}-{self.folder.name[-12:]}"

    def begin(self) -> None:
        """Make namespace and folders. `shared` is a mount of its own, so that mounts in it are passed on."""
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        for name in ("state", "shared", "data", "bundles", "runc"):
            (self.folder / name).mkdir()
        shared = self.folder / "shared"
        run("mount", "--bind", shared, shared)
        run("mount", "--make-private", shared)
        run("mount", "--make-shared", shared)

    def end(self) -> None:
        """Take everything down."""
        for container in reversed(self.containers.values()):
            container.remove()
        for _ in range(8):  # mounts lie above each other
            points = self.mounts()
            for point in points:
                run("umount", "-l", point, check=False)
            if not points:
                break
        for line in run("losetup", "-l", "-n", "-O", "NAME,BACK-FILE", check=False).stdout.splitlines():
            if str(self.folder) in line or self.name in line:
                run("losetup", "-d", line.split()[0], check=False)
        run("ip", "netns", "del", self.name, check=False)
        assert not self.mounts()

    def mounts(self) -> list[str]:
        """Mount points below the folder, the deepest first."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split(" ")[4] for line in lines]
        return sorted((p for p in points if p.startswith(f"{self.folder}/")), reverse=True)

    def start(
        self,
        name: str,
        image: str,
        command: Sequence[str],
        *,
        like: str,
        environment: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
        capabilities: Sequence[str] = (),
        extra: Sequence[dict[str, Any]] = (),
    ) -> Container:
        """Start a container with the privileges of `like`, less `without`, and more `capabilities`."""
        wanted = json.loads(json.dumps(PRIVILEGES["containers"][like]))
        wanted["capabilities"] = [c for c in [*wanted["capabilities"], *capabilities] if c not in without]
        wanted["devices"] = [d for d in wanted["devices"] if d not in without]
        assert name not in self.containers or self.containers[name].ended
        bundle = self.folder / "bundles" / name
        bundle.mkdir(exist_ok=True)
        root = self.images[image] if wanted["read_only_root"] else self._overlay(name, self.images[image])
        config = self._config(name, root, command, wanted, environment or {}, extra)
        (bundle / "config.json").write_text(json.dumps(config))
        container = Container(self, name, bundle)
        self.containers[name] = container
        container.start()
        return container

    def _overlay(self, name: str, lower: Path) -> Path:
        """A writable root of its own."""
        top = self.folder / "bundles" / name / "root"
        if not top.exists():
            for part in ("upper", "work"):
                (self.folder / "bundles" / name / part).mkdir()
            top.mkdir()
            where = top.parent
            words = f"lowerdir={lower},upperdir={where / 'upper'},workdir={where / 'work'}"
            run("mount", "-t", "overlay", "overlay", "-o", words, top)
        return top

    def _config(
        self,
        name: str,
        root: Path,
        command: Sequence[str],
        wanted: dict[str, Any],
        environment: Mapping[str, str],
        extra: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        nodes = devices(wanted["devices"])
        denied = [call for part in wanted["seccomp"] for call in PRIVILEGES["denied"][part]]
        variables = {"PATH": PATH, "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"} | dict(environment)
        propagation = PROPAGATION[wanted["propagation"]]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": wanted["user"], "gid": wanted["user"]},
                "args": list(command),
                "env": [f"{key}={value}" for key, value in variables.items()],
                "cwd": "/run/cwd",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), wanted["capabilities"]),
                "noNewPrivileges": True,
            },
            "root": {"path": str(root), "readonly": wanted["read_only_root"]},
            "hostname": name,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                _tmpfs("/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                 "options": ["nosuid", "noexec", "nodev", "ro"]},
                _tmpfs("/tmp", "nosuid", "nodev", "mode=1777"),
                _tmpfs("/run", "nosuid", "nodev", "mode=1777"),
                _tmpfs("/run/cwd", "nosuid", "nodev", "mode=1777"),
                _bind(self.folder / "state", "/state", "rprivate", "rw"),
                _bind(self.folder / "data", "/data", "rprivate", "rw"),
                _bind(self.folder / "shared", "/mnt/shared", propagation, "rw"),
                *extra,
            ],
            "linux": {
                "cgroupsPath": f"/{self.name}/{name}",
                "namespaces": [
                    *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                    {"type": "network", "path": f"/run/netns/{self.name}"},
                ],
                "rootfsPropagation": propagation if wanted["propagation"] else "rprivate",
                "devices": [
                    {"path": p, "type": t, "major": a, "minor": b, "fileMode": 0o660, "uid": 0, "gid": 0}
                    for p, t, a, b in nodes
                ],
                "resources": {
                    "devices": [
                        {"allow": False, "access": "rwm"},
                        *({"allow": True, "type": t, "major": a, "minor": b, "access": "rw"}
                          for _, t, a, b in nodes),
                    ]
                },
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
                "seccomp": {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": ["SCMP_ARCH_X86_64"],
                    "syscalls": [{"names": denied, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
                },
            },
        }  # fmt: skip


def _tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def _bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": ["rbind", "nosuid", "nodev", *options],
    }


@dataclass
class Container:
    """One container of a group; its output is in `log`."""

    group: Group
    name: str
    bundle: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def id(self) -> str:
        return f"{self.group.name}-{self.name}"

    def runc(self, *words: str, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("runc", "--root", self.group.folder / "runc", *words, timeout=timeout, check=check)

    def start(self) -> None:
        with (self.bundle / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["runc", "--root", self.group.folder / "runc", "run", "--bundle", self.bundle, self.id],
                env=os.environ | {"PATH": SEARCH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return (self.bundle / "log").read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition; the container must not end before."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert not self.ended, f"{self.name} ended while waiting for {what}: {self.log}"
            assert time.monotonic() < deadline, f"{self.name}: no {what} after {seconds} s: {self.log}"
            time.sleep(0.05)

    def said(self, text: str, seconds: float = 60) -> None:
        """Wait until its log holds a text."""
        self.until(lambda: text in self.log, seconds, repr(text))

    def kill(self, signal: str, timeout: float = 60) -> int:
        """Send a signal to the first process, and wait; the exit code."""
        self.runc("kill", self.id, signal)
        return self.wait(timeout)

    def wait(self, timeout: float = 60) -> int:
        assert self.process is not None
        code = self.process.wait(timeout)
        assert "Traceback" not in self.log, self.log
        return code

    def execute(self, script: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the running container, as its own user."""
        return self.runc("exec", self.id, "sh", "-c", script, timeout=timeout, check=False)

    def remove(self) -> None:
        self.runc("delete", "--force", self.id, check=False)
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()
            self.process.wait(10)


def environment_of(path: Path) -> dict[str, str]:
    """The variables of an environment file of the cloud in a box."""
    return dict(shlex.split(line)[1].split("=", 1) for line in path.read_text().splitlines())


@contextlib.contextmanager
def mounted(storage: Sequence[str | Path], tags: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """The root file systems of images, mounted by buildah; name to folder."""
    made: list[str] = []
    try:
        found = {}
        for name, tag in tags.items():
            made.append(run(*storage, "from", "--pull-never", tag, timeout=300).stdout.strip())
            found[name] = Path(run(*storage, "mount", made[-1], timeout=300).stdout.strip())
        yield found
    finally:
        for container in made:
            run(*storage, "rm", container, timeout=120, check=False)
