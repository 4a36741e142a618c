"""What is weak or likely to fail in a security policy: findings by level, each with a cure.

Levels: `error` gives the host or a stranger a way in, or cannot start at all; `warning` is wider than most
uses need; `note` is worth knowing. Rules that the generators add to every policy (the platform's own
variables and mounts) are not findings.

Strategy: one function per thing that can be wrong, in a table; all of them see a whole policy, already
parsed. What only the image can tell (a layer without entries for its parent directories) comes in as facts
about layers.

Spec: hcsshim, pkg/securitypolicy/framework.rego: what each rule lets through.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from sidecar.policy.inspect_text import Paint, count, shown
from sidecar.policy.lint_env import lint_env
from sidecar.policy.parse_model import Container, Policy


class Level(StrEnum):
    """How bad a finding is, worst first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: `code` is stable, `where` names the container or the part of the policy."""

    level: Level
    code: str
    where: str
    words: str
    cure: str = ""

    def to_json(self) -> dict[str, object]:
        return {
            "level": str(self.level),
            "code": self.code,
            "where": self.where,
            "words": self.words,
            "cure": self.cure,
        }


_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "busybox"})
_MICROSOFT = "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::"
_PAUSE = "pause-container"
_KNOWN_FRAMEWORKS = ("0.1", "0.2", "0.3", "0.4", "0.5")
# Capabilities that let a container act on the whole utility VM.
_MIGHTY = frozenset(
    {
        "CAP_SYS_ADMIN",
        "CAP_SYS_MODULE",
        "CAP_SYS_PTRACE",
        "CAP_SYS_RAWIO",
        "CAP_SYS_BOOT",
        "CAP_BPF",
        "CAP_DAC_READ_SEARCH",
        "CAP_MAC_ADMIN",
        "CAP_PERFMON",
    }
)


# The layers of an image as it is now, base first: root hash in hex, and how many directories the layer's
# archive uses without an entry of their own.
ImageLayers = tuple[tuple[str, int], ...]


def lint_policy(policy: Policy, *, images: Mapping[str, ImageLayers] | None = None) -> tuple[Finding, ...]:
    """Everything found, worst first, in the policy's order within a level.

    Args:
        images: those of the policy's images that were looked at, by the name that its containers have.
    """
    found = [finding for check in _POLICY_CHECKS for finding in check(policy)]
    for container in policy.containers:
        where = f"container {shown(container.label, 80)}"
        found += [Finding(*rest) for check in _CONTAINER_CHECKS for rest in check(container, where)]
        layers = (images or {}).get(container.id or "")
        found += [] if layers is None else _of_image(container, where, layers)
    order = list(Level)
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def describe_findings(findings: tuple[Finding, ...], paint: Paint | None = None) -> str:
    """The findings in lines for a terminal, and their number."""
    paint = paint or Paint()
    colours = {Level.ERROR: paint.bad, Level.WARNING: paint.warn, Level.NOTE: paint.dim}
    lines: list[str] = []
    for finding in findings:
        head = colours[finding.level](f"{finding.level} {finding.code}")
        lines.append(f"{head} {paint.head(finding.where)}: {finding.words}")
        if finding.cure:
            lines.append(f"    {finding.cure}")
    numbers = [count(sum(f.level is level for f in findings), level) for level in Level]
    lines.append(", ".join(numbers) if findings else "nothing found")
    return "\n".join(lines)


# -- the whole policy -----------------------------------------------------------------------------


def _open(policy: Policy) -> Iterator[Finding]:
    names = [point.name for point in policy.points if point.fixed]
    if policy.admits_anything:
        yield Finding(
            Level.ERROR,
            "open-policy",
            "policy",
            "any container may run, with anything in it: a key released to it is released to the host",
            "generate a policy from what is deployed: sidecar policy generate",
        )
    elif names:
        words = f"allowed without looking at the request: {', '.join(names[:8])}"
        yield Finding(Level.ERROR, "open-point", "policy", words, "bind them to data.framework")


def _debug(policy: Policy) -> Iterator[Finding]:
    for name, words in (
        ("allow_dump_stacks", "the host may read stacks of the guest's processes"),
        ("allow_runtime_logging", "the host may read the guest's logs"),
    ):
        if policy.flag(name):
            yield Finding(
                Level.ERROR, "debug-mode", "policy", f"{name}: {words}", "generate without --debug-mode"
            )


def _flags(policy: Policy) -> Iterator[Finding]:
    if policy.flag("allow_unencrypted_scratch"):
        yield Finding(
            Level.ERROR,
            "unencrypted-scratch",
            "policy",
            "allow_unencrypted_scratch: the host may read and change what containers write",
            "set it to false",
        )
    if policy.flag("allow_environment_variable_dropping"):
        yield Finding(
            Level.NOTE,
            "env-dropping",
            "policy",
            "variables without a rule vanish without a word, a missing rule shows only in the container",
        )


def _versions(policy: Policy) -> Iterator[Finding]:
    if policy.admits_anything or not policy.containers:
        return
    if not policy.framework_version:
        words = "no framework_version: the utility VM refuses the policy"
        yield Finding(Level.ERROR, "framework-version", "policy", words, "generate the policy again")
    elif ".".join(policy.framework_version.split(".")[:2]) not in _KNOWN_FRAMEWORKS:
        words = f"framework_version {policy.framework_version} is newer than the ones known here"
        cure = "a utility VM with an older framework refuses it"
        yield Finding(Level.WARNING, "framework-version", "policy", words, cure)


def _nothing(policy: Policy) -> Iterator[Finding]:
    if not policy.containers and not policy.fragments and not policy.admits_anything:
        words = "no containers and no fragments: nothing can start under it"
        yield Finding(Level.ERROR, "empty-policy", "policy", words)


def _fragments(policy: Policy) -> Iterator[Finding]:
    for fragment in policy.fragments:
        where = f"fragment {shown(fragment.feed, 80)}"
        ours = fragment.issuer.startswith(_MICROSOFT)
        if not ours:
            words = f"whoever signs as {shown(fragment.issuer, 160)} can add containers to this policy"
            yield Finding(Level.NOTE, "fragment-signer", where, words)
        if not fragment.minimum_svn.strip("0."):
            words = "minimum_svn 0: every version ever signed is accepted, with its known faults"
            yield Finding(Level.WARNING, "fragment-svn", where, words, "raise minimum_svn to the newest one")
        if "namespace" in fragment.includes:
            words = "includes namespace: the fragment's own rules are evaluated, not only its lists"
            yield Finding(Level.WARNING, "fragment-namespace", where, words)


def _twins(policy: Policy) -> Iterator[Finding]:
    seen: dict[object, Container] = {}
    for container in policy.containers:
        key = (container.layers, container.command, container.working_dir, container.mounts, container.user)
        other = seen.setdefault(key, container)
        if other is not container and other.allow_stdio_access != container.allow_stdio_access:
            words = f"differs from {shown(other.label, 80)} only in its standard streams: neither can start"
            yield Finding(
                Level.ERROR,
                "ambiguous-stdio",
                f"container {shown(container.label, 80)}",
                words,
                "give both the same setting",
            )


_POLICY_CHECKS: tuple[Callable[[Policy], Iterator[Finding]], ...] = (
    *(_open, _debug, _flags, _versions, _nothing, _fragments, _twins),
)


# -- one container --------------------------------------------------------------------------------

Rest = tuple[Level, str, str, str, str]


def _privileged(container: Container, where: str) -> Iterator[Rest]:
    if container.allow_elevated:
        words = "privileged: it may change the utility VM, and with it every other container"
        yield (
            Level.ERROR,
            "privileged",
            where,
            words,
            "leave privileged out and add the capabilities it needs",
        )
    capabilities = container.capabilities
    sets = (capabilities.bounding, capabilities.effective, capabilities.permitted) if capabilities else ()
    mighty = sorted({name for names in sets for name in names} & _MIGHTY)
    if mighty and not container.allow_elevated:
        words = f"capabilities as good as privileged: {', '.join(mighty)}"
        yield Level.WARNING, "capabilities", where, words, "drop those it can do without"


def _shells(container: Container, where: str) -> Iterator[Rest]:
    shells = [
        process.command[0]
        for process in container.exec_processes
        if process.command and process.command[0].rsplit("/", 1)[-1] in _SHELLS and len(process.command) == 1
    ]
    if shells:
        words = f"the host may run {', '.join(map(shown, shells[:4]))} in it: debug mode was left on"
        yield Level.ERROR, "debug-mode", where, words, "generate without --debug-mode"


def _stdio(container: Container, where: str) -> Iterator[Rest]:
    if container.allow_stdio_access and container.name != _PAUSE:
        words = "standard streams are open: the host reads its output and can type into it"
        yield (
            Level.WARNING,
            "stdio",
            where,
            words,
            "generate with --disable-stdio when the logs hold anything secret",
        )


def _image(container: Container, where: str) -> Iterator[Rest]:
    image = container.id
    if not image or "@sha256:" in image:
        return
    tag = image.rsplit("/", 1)[-1].partition(":")[2] or "latest"
    words = f"image {shown(image, 160)} is named by a tag that can move: then the layers no longer match"
    level = Level.WARNING if tag == "latest" else Level.NOTE
    yield level, "mutable-tag", where, words, "name the image by digest: NAME@sha256:..."


def _layers(container: Container, where: str) -> Iterator[Rest]:
    if not container.layers:
        words = "no layers: it can never start"
        yield Level.ERROR, "no-layers", where, words, "generate the policy again, with the image at hand"


def _environment(container: Container, where: str) -> Iterator[Rest]:
    for level, code, words, cure in lint_env(container.env_rules):
        yield Level(level), code, where, words, cure


def _mounts(container: Container, where: str) -> Iterator[Rest]:
    for mount in container.mounts:
        if mount.source in ("sandbox://.*", "sandbox://.+", ".*", ".+"):
            words = f"mount {shown(mount.destination, 80)}: any source at all"
            yield Level.WARNING, "wide-mount", where, words, "name the kind of volume"


def _processes(container: Container, where: str) -> Iterator[Rest]:
    if container.command is None or container.command == ():
        words = "no command: only a request without one is admitted"
        yield Level.NOTE, "no-command", where, words, ""


_CONTAINER_CHECKS: tuple[Callable[[Container, str], Iterator[Rest]], ...] = (
    *(_privileged, _shells, _stdio, _image, _layers, _environment, _mounts, _processes),
)


def _of_image(container: Container, where: str, layers: ImageLayers) -> Iterator[Finding]:
    """What only the image itself tells."""
    if container.layers != tuple(root_hash for root_hash, _ in layers):
        yield Finding(
            Level.ERROR,
            "stale-layers",
            where,
            f"image {shown(container.id or '', 160)} has other layers now: the start fails with 'deviceHash "
            "not found'",
            "generate the policy again, with the image by digest",
        )
    for number, (root_hash, directories) in enumerate(layers):
        if directories:
            noun = "directory" if directories == 1 else "directories"
            yield Finding(
                Level.WARNING,
                "implicit-parents",
                where,
                f"layer {number} ({root_hash[:12]}) uses {directories} {noun} without an entry of its own; "
                "older hosts hash such layers otherwise: 'deviceHash not found'",
                "build the image with a tool that writes parent directories, or squash its layers",
            )
