"""Security policies to read, in the text layout of the generators, by a writer that is not the product's."""

from __future__ import annotations

import json
from typing import Any

POINTS = [
    *("mount_device", "unmount_device", "mount_overlay", "unmount_overlay", "create_container"),
    *("exec_in_container", "exec_external", "shutdown_container", "signal_container_process"),
    *("plan9_mount", "plan9_unmount", "get_properties", "dump_stacks", "runtime_logging"),
    *("load_fragment", "scratch_mount", "scratch_unmount", "rw_mount_device"),
]
FLAGS = {
    "allow_properties_access": True,
    "allow_dump_stacks": False,
    "allow_runtime_logging": False,
    "allow_environment_variable_dropping": True,
    "allow_unencrypted_scratch": False,
    "allow_capability_dropping": True,
}
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]
INFRA = {
    "feed": "mcr.microsoft.com/aci/aci-cc-infra-fragment",
    "includes": ["containers", "fragments"],
    "issuer": "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.3",
    "minimum_svn": "4",
}
IMAGE = "registry.example/app@sha256:" + "c" * 64


def env(pattern: str, strategy: str = "string", *, required: bool = False) -> dict[str, Any]:
    return {"pattern": pattern, "required": required, "strategy": strategy}


def container(**changes: Any) -> dict[str, Any]:
    """One entry; `changes` replace members, or with ... remove them."""
    entry: dict[str, Any] = {
        "allow_elevated": False,
        "allow_stdio_access": True,
        "capabilities": {
            "ambient": [],
            "bounding": CAPABILITIES,
            "effective": CAPABILITIES,
            "inheritable": [],
            "permitted": CAPABILITIES,
        },
        "command": ["/app", "--port", "80"],
        "env_rules": [env("PATH=/bin"), env("HOSTNAME=.+", "re2"), env("MODE=fast", required=True)],
        "exec_processes": [{"command": ["/probe"], "signals": [9]}],
        "id": IMAGE,
        "layers": ["a" * 64, "b" * 64],
        "mounts": [
            {
                "destination": "/etc/resolv.conf",
                "options": ["rbind", "rshared", "rw"],
                "source": "sandbox:///tmp/atlas/resolvconf/.+",
                "type": "bind",
            }
        ],
        "name": "app",
        "no_new_privileges": False,
        "seccomp_profile_sha256": "",
        "signals": [15],
        "user": {
            "group_idnames": [{"pattern": "", "strategy": "any"}],
            "umask": "0022",
            "user_idname": {"pattern": "", "strategy": "any"},
        },
        "working_dir": "/",
    }
    return {name: value for name, value in (entry | changes).items() if value is not ...}


def policy_text(
    *containers: dict[str, Any],
    fragments: list[dict[str, Any]] | None = None,
    flags: dict[str, bool] | None = None,
    pretty: bool = False,
    api: str = "0.11.0",
    framework: str = "0.2.3",
) -> bytes:
    """A whole policy, laid out as the generators lay it out."""
    listed = [dict(sorted(entry.items())) for entry in containers or (container(),)]
    written = json.dumps(listed, indent=2) if pretty else json.dumps(listed, separators=(",", ":"))
    imports = json.dumps([INFRA] if fragments is None else fragments, indent=2, sort_keys=True)
    return "\n".join(
        [
            "package policy\n",
            "import future.keywords.every\nimport future.keywords.in\n",
            f'api_version := "{api}"\nframework_version := "{framework}"\n',
            f"fragments := {imports}\n",
            f"containers := {written}\n",
            *(f"{name} := {json.dumps(value)}" for name, value in (FLAGS | (flags or {})).items()),
            "",
            *(f"{name} := data.framework.{name}" for name in POINTS),
            "",
            'reason := {"errors": data.framework.errors}',
        ]
    ).encode()


def fragment_text(
    *containers: dict[str, Any],
    namespace: str = "contoso",
    svn: str = "1",
    fragments: list[dict[str, Any]] | None = None,
    framework: str = "0.2.3",
) -> bytes:
    """A fragment, laid out as the generators lay it out."""
    listed = json.dumps(list(containers or (container(),)), indent=2, sort_keys=True)
    imports = json.dumps(fragments or [], indent=2, sort_keys=True)
    return (
        f'package {namespace}\n\nsvn := "{svn}"\nframework_version := "{framework}"\n\n'
        f"fragments := {imports}\n\ncontainers := {listed}\n"
    ).encode()


OPEN_DOOR = (
    'package policy\n\napi_svn := "0.10.0"\n\n'
    + "".join(f'{name} := {{"allowed": true}}\n' for name in POINTS)
).encode()
