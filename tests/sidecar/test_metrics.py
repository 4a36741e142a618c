"""The text that Prometheus reads."""

from __future__ import annotations

from sidecar.metrics import BUCKETS, Metrics


def test_counters_histograms_and_gauges() -> None:
    metrics = Metrics("x")
    count = metrics.counter("answers_total", "Answers.", "route", "status")
    observe = metrics.histogram("seconds", "Time.", "route")
    metrics.gauge("ready", "Ready.", lambda: {(): 1})
    metrics.gauge("expiry", "Expiry.", lambda: {("a",): 1.5, ("b",): 2}, "name")
    metrics.gauge("made_total", "Made.", lambda: {(): 7})
    count("raw", "200")
    count("raw", "200")
    count("raw", "403")
    for seconds in (0.001, BUCKETS[0], 0.3, 1000.0):
        observe(seconds, "raw")
    lines = metrics.text().decode().splitlines()
    assert lines[:4] == [
        "# HELP x_answers_total Answers.",
        "# TYPE x_answers_total counter",
        'x_answers_total{route="raw",status="200"} 2',
        'x_answers_total{route="raw",status="403"} 1',
    ]
    buckets = [line.rpartition(" ")[2] for line in lines if line.startswith("x_seconds_bucket")]
    assert len(buckets) == len(BUCKETS) + 1
    assert buckets[0] == "2"  # the bound itself belongs to its bucket
    assert buckets[-2:] == ["3", "4"]
    assert 'x_seconds_bucket{route="raw",le="+Inf"} 4' in lines
    assert 'x_seconds_count{route="raw"} 4' in lines
    assert any(line.startswith('x_seconds_sum{route="raw"} 1000.30') for line in lines)
    assert lines[-10:] == [
        "# HELP x_ready Ready.",
        "# TYPE x_ready gauge",
        "x_ready 1",
        "# HELP x_expiry Expiry.",
        "# TYPE x_expiry gauge",
        'x_expiry{name="a"} 1.5',
        'x_expiry{name="b"} 2',
        "# HELP x_made_total Made.",
        "# TYPE x_made_total counter",
        "x_made_total 7",
    ]


def test_label_values_are_escaped() -> None:
    metrics = Metrics("x")
    metrics.counter("n", "N.", "a")('q"\\\n')
    assert 'x_n{a="q\\"\\\\\\n"} 1' in metrics.text().decode()
