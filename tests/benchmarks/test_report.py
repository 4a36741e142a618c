"""From samples to medians, ratios and targets, and how they get into a document."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks import workloads as w


def samples(**factors: float) -> dict[str, list[dict[str, float]]]:
    """Three rounds of two systems; `factors` say how many times as good ours is, 2 unless named."""
    rounds = [100.0, 500.0, 300.0]  # a machine whose speed changes between the rounds
    ours = [
        {m: speed / f if m in w.LESS_IS_BETTER else speed * f for m, f in better(factors).items()}
        for speed in rounds
    ]
    return {report.OURS: ours, report.QEMU: [dict.fromkeys(w.UNITS, speed) for speed in rounds]}


def better(factors: dict[str, float]) -> dict[str, float]:
    return {m: factors.get(m.partition(" ")[0].partition("+")[0], 2.0) for m in w.UNITS}


def test_medians_are_by_measure() -> None:
    found = report.medians(samples())
    assert found[report.QEMU] == dict.fromkeys(w.UNITS, 300.0)
    assert found[report.OURS][w.COLD] == 600
    assert found[report.OURS][w.UNTAR] == 150


@pytest.mark.parametrize("measure", w.UNITS)
def test_a_ratio_above_one_is_better_whatever_the_unit(measure: str) -> None:
    assert report.ratio(report.medians(samples()), measure, report.OURS, report.QEMU) == 2
    assert report.paired_ratio(samples(), measure, report.OURS, report.QEMU) == 2


def test_pairs_are_of_one_round() -> None:
    """One system measured in a slow minute only would win or lose by that."""
    taken = samples()
    taken[report.OURS][0] = dict.fromkeys(w.UNITS, 1.0)  # something else ran
    assert report.paired_ratio(taken, w.COLD, report.OURS, report.QEMU) == 2


def test_a_missed_target_says_so() -> None:
    lines = report.targets_table(samples(cold=2.9)).splitlines()
    by_measure = {line.split(" | ")[0].strip("| "): line for line in lines[2:]}
    assert by_measure[w.COLD].endswith("| 3.00 x | 2.90 x | **missed** |")
    assert by_measure[w.WRITE].endswith("| 1.50 x | 2.00 x | met |")
    assert len(by_measure) == 5  # those that need no other system


def test_tables_are_put_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    text = report.markdown(samples(), "2026-01-31", "a machine", "Like this.")
    for _ in range(2):
        report.include(document, text)
    assert document.read_text() == f"before\n{report.BEGIN}\n{text}\n{report.END}\nafter\n"
    assert "Measured 2026-01-31 on a machine. Like this." in text
    document.write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        report.include(document, text)


def test_every_measure_is_in_the_table() -> None:
    head, rule, *lines = report.results_table(report.medians(samples())).splitlines()
    assert all(f"{name}, {unit}" in head for name, unit in w.UNITS.items())
    assert {line.count("|") for line in (head, rule, *lines)} == {len(w.UNITS) + 2}
