"""Dashboard and alert rules speak of metrics that exist; promtool judges the rules where there is one."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from encfs.agentmetrics import Snapshot, metrics_text

_NAME = re.compile(r"\b(?:encfs|sidecar)_[a-z_]+\b")
_DECLARING = {"counter", "histogram", "gauge"}


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "docs" / "monitoring"


def agent_metrics() -> set[str]:
    store = {
        "dirty_bytes": 1,
        "accepted_generation": 1,
        "stored_generation": 1,
        "failures": 1,
        "lease": "held",
        "token_expiry": 1,
    }
    snapshot = Snapshot(0, "i", "/m", True, "mounted", 0.0, 0, "", True, 1, 0, 0, 0, store)
    return set(re.findall(r"^# TYPE (\w+)", metrics_text([snapshot], ready=True).decode(), re.MULTILINE))


def sidecar_metrics(root: Path) -> set[str]:
    """Names that the sidecar declares, with those that a histogram has."""
    found: set[str] = set()
    for path in (root / "sidecar").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=function, args=[ast.Constant(str(name)), ast.Constant(str()), *_]):
                    called = ast.unparse(function).rpartition(".")[2]
                    if called in _DECLARING:
                        ends = ("_bucket", "_sum", "_count") if called == "histogram" else ("",)
                        found.update(f"sidecar_{name}{end}" for end in ends)
    return found


def expressions(value: Any) -> list[str]:
    """Every `expr` of a document."""
    if isinstance(value, dict):
        here = [value["expr"]] if isinstance(value.get("expr"), str) else []
        return here + [text for part in value.values() for text in expressions(part)]
    return [text for part in value for text in expressions(part)] if isinstance(value, list) else []


def load(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else YAML(typ="safe").load(path)


@pytest.mark.parametrize("name", ["dashboard.json", "alerts.yml"])
def test_each_metric_named_exists(root: Path, folder: Path, name: str) -> None:
    known = agent_metrics() | sidecar_metrics(root)
    assert len(known) > 20
    found = expressions(load(folder / name))
    assert len(found) > 10
    for text in found:
        used = set(_NAME.findall(re.sub(r'"[^"]*"', "", text)))
        assert used, text
        assert used <= known, text


def test_the_dashboard_shows_every_metric(root: Path, folder: Path) -> None:
    shown = set(_NAME.findall(" ".join(expressions(load(folder / "dashboard.json")))))
    known = {name for name in sidecar_metrics(root) if not name.endswith(("_sum", "_count"))}
    assert (agent_metrics() | known) - shown == set()


def test_the_dashboard_is_one_grafana_can_lay_out(folder: Path) -> None:
    dashboard = load(folder / "dashboard.json")
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in dashboard["panels"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)
    for index, (x, y, w, h) in enumerate(places):
        assert x + w <= 24
        for x2, y2, w2, h2 in places[:index]:
            assert x >= x2 + w2 or x2 >= x + w or y >= y2 + h2 or y2 >= y + h


def test_each_alert_has_a_severity_a_summary_and_a_row_in_operations(root: Path, folder: Path) -> None:
    text = (root / "docs" / "operations.md").read_text()
    rules = [rule for group in load(folder / "alerts.yml")["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert f"| `{rule['alert']}` |" in text
    assert set(re.findall(r"^\| `((?:Encfs|Sidecar)\w+)` \|", text, re.M)) == {r["alert"] for r in rules}


def test_promtool_takes_the_rules_and_their_tests(folder: Path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        return  # too large a package to bring along for this; the tests above hold what matters most
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *command], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
