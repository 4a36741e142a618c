"""What `encfs bench` prints, and what it takes from its workload process."""

from __future__ import annotations

import json

import pytest

from encfs.benchreport import Measure, Report, parse_measures, to_json, to_table
from encfs.errors import StoreError

READ = Measure("sequential read", "MiB/s", 1234.5)
SYNC = Measure("write and fsync, 4 KiB", "requests/s", 2000.0, median_us=412.3, p99_us=25_000.0)
REPORT = Report("data.img", 48 << 20, 4096, "compiled", "driver", (READ, SYNC))


def test_table_has_a_line_for_each_measure() -> None:
    head, _, first, second = to_table(REPORT).splitlines()
    assert "data.img: 48 MiB, sectors of 4096 bytes, AES-XTS engine compiled" in head
    assert first.split() == ["sequential", "read", "1,234", "MiB/s"]
    assert second.split()[-6:] == ["2,000", "requests/s", "412", "us", "25", "ms"]


def test_json_holds_everything() -> None:
    found = json.loads(to_json(REPORT))
    assert found["engine"] == "compiled"
    assert [Measure(**m) for m in found["measures"]] == [READ, SYNC]


def test_measures_come_a_line_each() -> None:
    lines = (
        '{"name": "a", "unit": "MiB/s", "value": 1}\n{"name": "b", "unit": "x", "value": 2, "p99_us": 3}\n'
    )
    assert parse_measures(lines) == (Measure("a", "MiB/s", 1), Measure("b", "x", 2, p99_us=3))


@pytest.mark.parametrize("output", ["no JSON\n", '{"name": "a"}\n', '{"other": 1}\n', "[1]\n"])
def test_anything_else_is_refused(output: str) -> None:
    with pytest.raises(StoreError, match="no measure"):
        parse_measures(output)
