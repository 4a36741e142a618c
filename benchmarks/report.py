"""From samples to what is read: medians, ratios, targets, a table in Markdown, a plot.

Kept free of anything that measures, so that it can be tested.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import workloads as w

Samples = Mapping[str, Sequence[Mapping[str, float]]]
Medians = Mapping[str, Mapping[str, float]]
OURS, PLAIN, QEMU, GOCRYPTFS = "encfs", "plain loop ext4", "qemu LUKS over FUSE", "gocryptfs"
OURS_512 = "encfs, 512-byte sectors"
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"


@dataclass(frozen=True, slots=True)
class Target:
    """`system` must be at least `factor` times as good as `peer` at `measure`."""

    measure: str
    peer: str
    factor: float
    system: str = OURS


TARGETS = (
    Target(w.COLD, QEMU, 3.0),
    Target(w.WRITE, QEMU, 1.5),
    Target(w.READ_1, QEMU, 1.2),
    Target(w.READ_4, QEMU, 1.5),
    Target(w.RANDOM_WRITE, QEMU, 1.0),
    Target(w.COLD, GOCRYPTFS, 0.9),
    Target(w.UNTAR, GOCRYPTFS, 10),
    Target(w.HOT, PLAIN, 0.97),
    Target(w.UNTAR, PLAIN, 1 / 1.1),
    *(Target(measure, OURS, 0.5, OURS_512) for measure in w.UNITS),
)


def medians(samples: Samples) -> dict[str, dict[str, float]]:
    """Median of each measure for each system."""
    return {
        system: {measure: statistics.median(r[measure] for r in rounds) for measure in rounds[0]}
        for system, rounds in samples.items()
    }


def ratio(table: Medians, measure: str, system: str, peer: str) -> float:
    """How many times as good `system` is as `peer`: above 1 is better, whatever the unit."""
    mine, theirs = table[system][measure], table[peer][measure]
    return theirs / mine if measure in w.LESS_IS_BETTER else mine / theirs


def paired_ratio(samples: Samples, measure: str, system: str, peer: str) -> float:
    """Median of the ratios round by round: what both did within the same minute is compared."""
    pairs = zip(medians_by_round(samples, system), medians_by_round(samples, peer), strict=True)
    return statistics.median(ratio({system: a, peer: b}, measure, system, peer) for a, b in pairs)


def medians_by_round(samples: Samples, system: str) -> Sequence[Mapping[str, float]]:
    """The rounds of one system."""
    return samples[system]


def results_table(table: Medians) -> str:
    """Systems by measures, each figure with its ratio to ours."""
    measures = list(w.UNITS)
    lines = [
        "| median | " + " | ".join(f"{m}, {w.UNITS[m]}" for m in measures) + " |",
        "|---|" + "---:|" * len(measures),
    ]
    for system, values in table.items():
        cells = [_figure(values[m], w.UNITS[m]) for m in measures]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(value: float, unit: str) -> str:
    return f"{value / 1000:.1f}k" if unit == "IOPS" else f"{value:.0f}"


def targets_table(samples: Samples) -> str:
    """Every target that both systems were measured for, what was reached, and whether that is enough."""
    lines = ["| measure | compared with | wanted | reached | |", "|---|---|---:|---:|---|"]
    for t in TARGETS:
        if t.system in samples and t.peer in samples:
            reached = paired_ratio(samples, t.measure, t.system, t.peer)
            subject = t.measure if t.system == OURS else f"{t.measure}, {t.system.partition(', ')[2]}"
            verdict = "met" if reached >= t.factor else "**missed**"
            lines.append(f"| {subject} | {t.peer} | {t.factor:.2f} x | {reached:.2f} x | {verdict} |")
    return "\n".join(lines)


def markdown(samples: Samples, when: str, machine: str, method: str) -> str:
    """What docs/performance.md includes."""
    return "\n\n".join(
        [f"Measured {when} on {machine}. {method}", results_table(medians(samples)), targets_table(samples)]
    )


def include(document: Path, text: str) -> None:
    """Put `text` between the two marks in a document.

    Raises:
        ValueError: the document has no such marks.
    """
    old = document.read_text()
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(old):
        raise ValueError(f"{document}: has no lines {BEGIN!r} and {END!r}")
    document.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", old))


def plot(table: Medians, path: Path) -> None:
    """A bar chart for each measure; the file's suffix says which format (PNG, SVG).

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib  # type: ignore[import-not-found, unused-ignore]  # an extra of its own

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "encfs", "font.size": 8})
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]

    systems = list(table)
    colours = {system: f"C{number}" for number, system in enumerate(systems)}
    figure, axes = pyplot.subplots(2, 4, figsize=(12, 5.5))
    for axis, measure in zip(axes.flat, w.UNITS, strict=False):
        values = [table[system][measure] for system in systems]
        axis.bar(range(len(systems)), values, color=[colours[s] for s in systems])
        axis.set_title(measure)
        axis.set_ylabel(w.UNITS[measure] + (", less is better" if measure in w.LESS_IS_BETTER else ""))
        axis.set_xticks([])
    legend = axes.flat[-1]
    legend.axis("off")
    bars = [pyplot.Rectangle((0, 0), 1, 1, color=colours[s]) for s in systems]
    legend.legend(bars, systems, loc="center", frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
