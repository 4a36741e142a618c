"""Checks a filled-in deployment template before it is sent: `scripts/deploy-check TEMPLATE [--key FILE]`.

TEMPLATE is an ARM template (JSON; bicep: what `bicep build` makes of it, with `-p` for its parameters) or
Kubernetes YAML; FILE the configuration that the key is imported with. Says every mistake, not only the first:

- a placeholder was left;
- settings in base64 that sidecar or agent would refuse, endpoints that are none;
- an image without a tag, or with a tag that moves;
- a volumes' sidecar without the privileges it needs, or another container with them;
- with --key: the security policy's digest is not the hostdata that the key's release policy demands.

Prints one line for each mistake and ends with 1, or prints `ok` and ends with 0.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from encfs.errors import EncfsError
from encfs.settingsparse import parse_settings as parse_agent
from sidecar.config import parse_settings as parse_sidecar
from sidecar.errors import SidecarError
from sidecar.hosts import parse_host
from sidecar.importkey import parse_import_config
from sidecar.policy.containers import ContainerGroup, ContainerSpec
from sidecar.policy.generate_sources import Source, template_source, yaml_source
from sidecar.securitypolicy import policy_digest

HOST_DATA = "x-ms-sevsnpvm-hostdata"
PLACEHOLDER = re.compile(r"<[A-Za-z][A-Za-z0-9-]{3,}>")
AGENT, SIDECAR = "EncfsSideCarArgs", "SkrSideCarArgs"
ENDPOINTS = ("SkrClientMAAEndpoint", "SkrClientAKVEndpoint", "AttestClientMAAEndpoint")
MOVING = ("", "latest", "stable", "main", "master", "edge", "nightly", "dev")


def read(path: Path, parameters: list[Path]) -> Source:
    """The description; what only the deployment knows stands for any value."""
    data = path.read_bytes()
    if path.suffix in (".yaml", ".yml"):
        return yaml_source(data, lambda question: True)
    return template_source(data, [one.read_bytes() for one in parameters], lambda question: True)


def check_text(text: str) -> Iterator[str]:
    """Placeholders."""
    for found in sorted(set(PLACEHOLDER.findall(text))):
        yield f"placeholder {found} is still there"


def check_container(container: ContainerSpec) -> Iterator[str]:
    """Image, settings, endpoints and privileges of one container."""
    name = f"container {container.name}"
    for fault in check_image(container.image):
        yield f"{name}: image {container.image}: {fault}"
    variables = {
        rule.name: rule.pattern.partition("=")[2] for rule in container.env if rule.strategy == "string"
    }
    try:
        if AGENT in variables:
            parse_agent(variables[AGENT].encode(), AGENT, allow_raw_key=False)
        if variables.get(SIDECAR):
            parse_sidecar(variables[SIDECAR])
    except (EncfsError, SidecarError) as exc:
        yield f"{name}: {exc}"
    for variable in ENDPOINTS:
        if variable in variables:
            try:
                parse_host(variables[variable])
            except SidecarError as exc:
                yield f"{name}: {variable}: {exc}"
    mounts = AGENT in variables
    if mounts and not container.security.privileged:
        yield f"{name}: not privileged, and the volumes cannot be mounted"
    if not mounts and container.security.privileged:
        yield f"{name}: privileged, for which there is no reason here"


def check_image(image: str) -> Iterator[str]:
    """Whether a reference always means the same image."""
    reference, at, digest = image.partition("@")
    if at:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            yield "digest is malformed, wanted sha256: and 64 hex digits"
        return
    tag = reference.rpartition("/")[2].partition(":")[2]
    if tag in MOVING:
        yield f"tag {tag or 'missing'}: the image may change, wanted a version or @sha256:..."


def check_key(group: ContainerGroup, key: Path) -> Iterator[str]:
    """The group's policy against the key's release policy."""
    config = parse_import_config(key.read_bytes())
    if not group.existing:
        yield f"group {group.name}: no security policy; make one: sidecar policy generate"
        return
    digest = policy_digest(group.existing.encode()).hex()
    demanded = [dict(clause).get(HOST_DATA) for clause in config.clauses]
    if digest not in demanded:
        wanted = ", ".join(str(one) for one in demanded) or "none"
        yield f"group {group.name}: security policy has digest {digest}, the key demands {HOST_DATA} {wanted}"
    if None in demanded or not demanded:
        yield f"key {config.kid}: a clause without {HOST_DATA} releases it to any policy"
    for container in group.containers:
        yield from check_same_key(container, config.kid, config.akv_endpoint, config.maa_endpoint)


def check_same_key(container: ContainerSpec, kid: str, vault: str, authority: str) -> Iterator[str]:
    """Whether the volumes ask for the key where it will lie."""
    for rule in container.env:
        if rule.name != AGENT or rule.strategy != "string":
            continue
        try:
            volumes = parse_agent(rule.pattern.partition("=")[2].encode(), AGENT, allow_raw_key=False).volumes
        except EncfsError:
            return  # said already
        for volume in volumes:
            if volume.key is None or volume.key.kid.partition("/")[0] != kid:
                continue
            for what, seen, wanted in (
                ("vault", volume.key.akv_endpoint, vault),
                ("authority", volume.key.maa_endpoint, authority),
            ):
                if seen != wanted:
                    yield f"volume {volume.mount_point}: {what} {seen}, the key's is {wanted}"


def main(argv: list[str] | None = None) -> int:
    """Check, print, exit code."""
    parser = argparse.ArgumentParser(
        prog="deploy-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("template", type=Path)
    parser.add_argument("-p", "--parameters", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--key", type=Path, metavar="FILE", help="configuration of sidecar import-key")
    asked = parser.parse_args(argv)
    faults: list[str] = []
    try:
        faults += check_text(asked.template.read_text())
        for group in read(asked.template, asked.parameters).groups:
            for container in group.containers:
                faults += check_container(container)
            if asked.key is not None:
                faults += check_key(group, asked.key)
    except (OSError, UnicodeDecodeError, SidecarError) as exc:
        faults.append(str(exc))
    for fault in faults:
        print(f"deploy-check: {fault}")
    if not faults:
        print("ok")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
