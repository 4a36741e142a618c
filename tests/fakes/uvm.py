"""A utility VM as far as its policy goes: a real Rego engine, and the state that its answers change.

The rules are those of `framework.rego` beside this file. HCSSHIM_FRAMEWORK names a folder with the public
`framework.rego` to judge by instead; it is read from there and never copied.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regopy import Interpreter

OWN_RULES = Path(__file__).with_name("framework.rego")
NEWEST = "0.5.0"


def rule_files() -> list[Path]:
    """The rules to judge by: ours, and the public ones where a developer has them."""
    public = os.environ.get("HCSSHIM_FRAMEWORK")
    return [OWN_RULES, *([Path(public) / "framework.rego"] if public else [])]


@dataclass
class Uvm:
    """One guest under one policy."""

    policy: str
    rules: Path = OWN_RULES
    metadata: dict[str, Any] = field(default_factory=dict)
    mounted: int = 0

    def ask(self, point: str, request: dict[str, Any]) -> dict[str, Any]:
        """The policy's answer at one point; its changes are made."""
        engine = Interpreter()
        engine.add_module("framework", self.rules.read_text().replace("@@FRAMEWORK_VERSION@@", NEWEST))
        engine.add_module("policy", self.policy)
        data = {
            "metadata": {"operatingsystem": {"ostype": "linux"}, **self.metadata},
            "defaultMounts": [],
            "privilegedMounts": [],
            "sandboxPrefix": "sandbox://",
            "hugePagesPrefix": "hugepages://",
            "plan9Prefix": "plan9://",
        }
        engine.add_data(data)
        engine.set_input({**request, "rule": point})
        result = json.loads(str(engine.query(f"answer = data.policy.{point}")))
        answer: dict[str, Any] = result["bindings"]["answer"]
        for change in answer.get("metadata", []):
            table = self.metadata.setdefault(change["name"], {})
            table[change["key"]] = change["value"]
        return answer

    def allows(self, point: str, request: dict[str, Any]) -> bool:
        return bool(self.ask(point, request)["allowed"])

    def mount(self, layers: list[str]) -> list[str] | None:
        """Mount layers, base first; their targets top first, as an overlay wants them; None: refused."""
        targets: list[str] = []
        for layer in layers:
            self.mounted += 1
            target = f"/run/mounts/scsi/m{self.mounted}"
            request = {"target": target, "deviceHash": layer, "mountPathRegex": "/run/mounts/scsi/m[0-9]+"}
            if not self.allows("mount_device", request):
                return None
            targets.insert(0, target)
        return targets

    def start(self, layers: list[str], request: dict[str, Any]) -> bool:
        """Mount, overlay and create: whether a container may run."""
        targets = self.mount(layers)
        if targets is None:
            return False
        identity = request["containerID"]
        overlay = {"containerID": identity, "layerPaths": targets, "target": f"/run/gcs/c/{identity}/rootfs"}
        return self.allows("mount_overlay", overlay) and self.allows("create_container", request)
