"""The wheel: built from what git has, installed into an environment of its own, and at work there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("clean_environment")
_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


def run(*command: str | Path, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    variables = {"PATH": os.environ["PATH"], "HOME": str(cwd or "/nonexistent"), **(environment or {})}
    done = subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the files that git would take, with what scripts/make-docs adds."""
    root, folder = Path(__file__).resolve().parent.parent, tmp_path_factory.mktemp("wheel")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=root)
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)
    run(sys.executable, "-m", "manual", "--share", folder / "share", cwd=folder)
    # setuptools as the environment has it, pinned: a build environment would have to be downloaded.
    run(*_PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", ".", cwd=folder)
    (made,) = (folder / "dist").glob("*.whl")
    return made


def environment(folder: Path) -> Path:
    """A fresh environment; its folder of programs."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    return folder / "bin"


def check_installed(programs: Path, work: Path) -> None:
    """What a user does first."""
    work.mkdir()
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    version = tomllib.loads(pyproject.read_text())["project"]["version"]
    for name in ("encfs", "sidecar", "skr"):
        assert run(programs / name, "--version") == f"{name} {version}\n"
    where = run(programs / "python", "-I", "-c", "import encfs._xts, sidecar; print(encfs._xts.__file__)")
    assert where.startswith(str(programs.parent))
    (work / "key.bin").write_bytes(bytes(range(32)))
    (work / "files").mkdir()
    run(programs / "encfs", "create", "a.img", "--key-file", "key.bin", "--size", "32M", cwd=work)
    assert "LUKS2" in run(programs / "encfs", "info", "a.img", cwd=work)
    software = {"SIDECAR_SNP": "software", "SIDECAR_SNP_DIRECTORY": str(work / "snp")}
    report = run(programs / "sidecar", "report", "--format", "hex", environment=software, cwd=work)
    assert len(bytes.fromhex(report)) == 1184
    share = programs.parent / "share"
    assert (share / "man/man1/encfs-key-add.1").is_file()
    assert (share / "bash-completion/completions/sidecar").is_file()
    assert (share / "zsh/site-functions/_encfs").is_file()


def test_it_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("attested_volumes-")} == {"encfs", "sidecar"}
    assert "encfs/py.typed" in names
    for module in ("_xts", "_digest", "_section"):
        assert any(name.startswith(f"encfs/{module}.") and name.endswith(".so") for name in names)


def test_it_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv")
    run(*_PIP, "--python", programs / "python", "install", "--no-deps", wheel)
    # Other people's packages, as this environment has them; its own links to the checkout are not followed.
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    check_installed(programs, tmp_path / "work")


@pytest.mark.slow
def test_it_installs_with_everything_it_needs(wheel: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv")
    pins = Path(__file__).resolve().parent.parent / "scripts" / "constraints.txt"
    network = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    network |= {"HOME": os.environ.get("HOME", "/")}
    command = [*_PIP, "--python", programs / "python", "install", "-c", pins, wheel]
    run(*command, environment=network)
    run(*_PIP, "--python", programs / "python", "check")
    check_installed(programs, tmp_path / "work")
