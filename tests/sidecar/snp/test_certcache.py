"""The cache on disk: a miss at worst."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.snp_chain import Authority

from sidecar.snp.certcache import CertificateCache, default_directory
from sidecar.snp.report import parse_report
from sidecar.snp.tcb import ProductLine

MILAN, GENOA, TURIN = ProductLine
AUTHORITY = Authority()
REPORT = parse_report(AUTHORITY.report())


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    cache = CertificateCache(tmp_path / "deep" / "cache")
    assert cache.read(REPORT, MILAN) is None
    cache.write(REPORT, MILAN, AUTHORITY.chain())
    assert cache.read(REPORT, MILAN) == AUTHORITY.chain()
    (file,) = cache.directory.iterdir()
    assert file.name == f"Milan-{AUTHORITY.chip_id.hex()}-db18000000000004.pem"


def test_line_chip_and_tcb_are_all_in_the_key(tmp_path: Path) -> None:
    cache = CertificateCache(tmp_path)
    cache.write(REPORT, MILAN, AUTHORITY.chain())
    other_tcb = parse_report(Authority(tcb=bytes((4, 0, 0, 0, 0, 0, 0x18, 0xDC))).report())
    other_chip = parse_report(Authority(hwid=b"o" * 64).report())
    assert cache.read(REPORT, GENOA) is None
    assert cache.read(other_tcb, MILAN) is None
    assert cache.read(other_chip, MILAN) is None


@pytest.mark.parametrize("content", [b"", b"junk", b"x" * 300_000])
def test_damage_is_a_miss(tmp_path: Path, content: bytes) -> None:
    cache = CertificateCache(tmp_path)
    cache.write(REPORT, MILAN, AUTHORITY.chain())
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert cache.read(REPORT, MILAN) is None


def test_an_unusable_directory_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = CertificateCache(tmp_path / "file")
    cache.write(REPORT, MILAN, AUTHORITY.chain())
    assert cache.read(REPORT, MILAN) is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"SIDECAR_CERTIFICATE_CACHE": "/c"}, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/sidecar/certificates"),
        ({"HOME": "/h"}, "/h/.cache/sidecar/certificates"),
    ],
)
def test_default_directory(environ: dict[str, str], wanted: str) -> None:
    assert default_directory(environ) == Path(wanted)
