"""What is in the images, and what is not."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from fakes.containers import PRIVILEGES, STORAGE, run

ROOT = Path(__file__).resolve().parent.parent.parent
# Paths of the predecessor's contract.
SKR = (
    *("/skr.sh", "/bin/skr", "/bin/get-snp-report"),
    *("/tests/skr/attest_client.sh", "/tests/skr/skr_client.sh", "/tests/skr/skr_test.sh"),
)
ENCFS = ("/encfs.sh", "/bin/remotefs", "/bin/get-snp-report", "/bin/encfs")
FORBIDDEN = re.compile(r"(?:gcc|cc1|g\+\+|ld|make|pip|cython|apt-get|curl|wget)[0-9.-]*", re.IGNORECASE)
containers = pytest.mark.containers
root = pytest.mark.root


@containers
@root
@pytest.mark.parametrize(("name", "paths"), [("skr", SKR), ("encfs", ENCFS)])
def test_entry_points_are_there_and_no_compiler(
    container_images: dict[str, Path], name: str, paths: tuple[str, ...]
) -> None:
    top = container_images[name]
    for path in paths:
        done = run("chroot", top, "test", "-x", path, check=False)
        assert done.returncode == 0, path
    programs = [
        p.name
        for part in ("usr/bin", "usr/sbin", "usr/lib/attested-volumes/bin")
        for p in (top / part).iterdir()
    ]
    assert not [program for program in programs if FORBIDDEN.fullmatch(program)]
    headers = [p.name for p in (top / "usr/include").rglob("*") if p.is_file()]
    assert not headers
    assert (name == "skr") == (not list(top.glob("usr/lib/attested-volumes/lib/*/site-packages/encfs")))


@containers
@root
def test_remotefs_takes_the_predecessors_flags(container_images: dict[str, Path]) -> None:
    remotefs = ("chroot", container_images["encfs"], "/bin/remotefs")
    settings = base64.b64encode(b'{"azure_filesystems": []}').decode()
    for words, said in [
        (("-size=3",), "wanted -base64, -loglevel or -logfile"),
        (("-loglevel", "debug"), "EncfsSideCarArgs: not set"),
        ((f"--base64={settings}", "-loglevel", "info"), "azure_filesystems"),
    ]:
        done = run(*remotefs, *words, check=False)
        assert (done.returncode, said in done.stderr) == (2, True), done


@containers
@root
@pytest.mark.parametrize("name", ["skr", "encfs"])
def test_bill_of_materials(container_images: dict[str, Path], name: str) -> None:
    bill = json.loads((container_images[name] / f"usr/share/sbom/{name}.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    found = {part["name"]: part for part in bill["components"]}
    pins = dict(line.split("==") for line in (ROOT / "scripts" / "constraints.txt").read_text().split())
    assert found["trio"]["version"] == pins["trio"]
    assert found["cryptography"]["purl"] == f"pkg:pypi/cryptography@{pins['cryptography']}"
    assert found["python3.11"]["purl"].startswith("pkg:deb/debian/python3.11@3.11.")
    assert ("pyfuse3" in found) == (name == "encfs")


@containers
@root
def test_labels_health_and_command(container_images: dict[str, Path]) -> None:
    assert set(container_images) == {"skr", "encfs"}
    for name, path in (("skr", "/status"), ("encfs", "/healthz")):
        tag = f"localhost/attested-volumes/{name}:0.1.0"
        config = json.loads(run(*STORAGE, "inspect", "--type", "image", tag).stdout)["Docker"]["config"]
        assert config["Labels"]["org.opencontainers.image.title"] == name
        assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"
        assert re.fullmatch("[0-9a-f]{40}", config["Labels"]["org.opencontainers.image.revision"])
        assert config["Cmd"] == [f"/{name}.sh"]
        assert config["Healthcheck"]["Test"][-1] == path


@containers
@root
@pytest.mark.slow
def test_two_builds_give_one_digest(tmp_path: Path) -> None:
    """From nothing but what was fetched; the second in another folder, with another storage."""
    printed = []
    for number in (1, 2):
        words = ("--storage", tmp_path / f"storage{number}", "--out", tmp_path / f"out{number}")
        environment = ("env", "SOURCE_DATE_EPOCH=1700000000")
        printed.append(run(*environment, ROOT / "scripts" / "build-images", *words, timeout=1500).stdout)
        shutil.rmtree(tmp_path / f"storage{number}")
    assert printed[0] == printed[1]
    assert re.fullmatch(r"skr sha256:[0-9a-f]{64} [0-9.]+ MiB .*\nencfs sha256:[0-9a-f]{64} .*\n", printed[0])


def test_the_table_says_what_the_tests_run_with() -> None:
    text = (ROOT / "docs" / "privileges.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    assert {row[0].split("`")[1] for row in rows} == set(PRIVILEGES["containers"])
    for row in rows:
        wanted = PRIVILEGES["containers"][row[0].split("`")[1]]
        assert int(row[1]) == wanted["user"]
        assert row[2] == (", ".join(wanted["capabilities"]) or "none")
        assert row[3].split(";")[0] == (", ".join(wanted["devices"]) or "none")
        assert row[4] == (wanted["propagation"] or "")
        assert row[5].split(":")[0] == ("read-only" if wanted["read_only_root"] else "writable")


def test_scripts_are_executable() -> None:
    for path in (ROOT / "images").rglob("*"):
        if path.is_file() and path.read_bytes()[:2] == b"#!" and path.suffix != ".py":
            runs_by_itself = path.name not in ("install.sh", "debs.sh")
            assert os.access(path, os.X_OK) == runs_by_itself, path
