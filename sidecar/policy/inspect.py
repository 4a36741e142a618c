"""A security policy as people read it: which containers may run, and what each of them may do.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.policy.inspect_text import Paint, command_line, count, shown
from sidecar.policy.members import CAPABILITY_SETS, Capabilities, IdName
from sidecar.policy.parse_model import Container, EnvRule, Policy

_UNPRIVILEGED, _PRIVILEGED = 14, 41
_OPEN_DOOR = "any container of any image may run: this policy protects nothing"
_FLAG_WORDS = {
    "allow_properties_access": "the host may read properties of the guest",
    "allow_dump_stacks": "the host may read stacks of the guest's processes",
    "allow_runtime_logging": "the host may read the guest's logs",
    "allow_environment_variable_dropping": "variables that no rule admits are left out instead of refused",
    "allow_unencrypted_scratch": "the containers' scratch space need not be encrypted",
    "allow_capability_dropping": "capabilities that are not admitted are left out instead of refused",
    "allow_host_network": "containers may use the guest's own network",
}
_RISKY_FLAGS = frozenset({"allow_dump_stacks", "allow_runtime_logging", "allow_unencrypted_scratch"})


def describe_policy(policy: Policy, digest: str, paint: Paint | None = None) -> str:
    """The policy in lines for a terminal.

    Args:
        digest: SHA-256 of its text in hex.
        paint: colours; none by default.
    """
    paint = paint or Paint()
    lines = [
        f"{paint.head('digest')} {digest}",
        f"api {policy.api_version or 'not given'}, framework {policy.framework_version or 'not given'}",
    ]
    if policy.admits_anything:
        lines.append(paint.bad(_OPEN_DOOR))
    for number, container in enumerate(policy.containers, 1):
        lines += ["", *describe_container(container, paint, number)]
    if policy.fragments:
        lines += ["", paint.head("fragments") + " (signed additions that are accepted)"]
    for fragment in policy.fragments:
        lines.append(f"  {paint.name(shown(fragment.feed))}")
        lines.append(f"    issuer   {shown(fragment.issuer)}")
        lines.append(f"    svn      {fragment.minimum_svn} or higher")
        lines.append(f"    adds     {', '.join(fragment.includes)}")
    lines += ["", paint.head("flags"), *_flags(policy, paint)]
    lines += _points(policy, paint)
    return "\n".join(lines)


def describe_container(container: Container, paint: Paint, number: int) -> Iterator[str]:
    """One container in lines, indented under its heading."""
    yield f"{paint.head(f'container {number}')} {paint.name(shown(container.label))}"
    if container.id and container.id != container.label:
        yield f"  image      {shown(container.id)}"
    yield f"  layers     {_layers(container.layers)}"
    command = "none" if container.command is None else command_line(container.command)
    yield f"  command    {command}"
    yield f"  directory  {shown(container.working_dir)}"
    yield f"  user       {_user(container)}"
    yield from _listed("environment", [_env(rule, paint) for rule in container.env_rules])
    yield from _listed(
        "mounts",
        [
            f"{shown(m.destination)} from {shown(m.source)} ({m.type}: {' '.join(map(shown, m.options))})"
            for m in container.mounts
        ],
    )
    yield from _listed(
        "may also run", [command_line(process.command) for process in container.exec_processes]
    )
    if container.signals:
        yield f"  signals    {' '.join(map(str, container.signals))}"
    yield f"  capable of {_capabilities(container.capabilities)}"
    if container.seccomp_profile_sha256:
        yield f"  seccomp    {shown(container.seccomp_profile_sha256)}"
    yield f"  {_privileges(container, paint)}"


def _layers(layers: tuple[str, ...]) -> str:
    shown_ones = " ".join(layer[:12] for layer in layers[:8])
    more = " ..." if len(layers) > 8 else ""
    return f"{count(len(layers), 'layer')}, base first: {shown_ones}{more}" if layers else "none"


def _user(container: Container) -> str:
    groups = ", ".join(_id_name(group) for group in container.user.groups) or "none"
    return f"{_id_name(container.user.user)}; groups {groups}; umask {shown(container.user.umask)}"


def _id_name(rule: IdName) -> str:
    return "any" if rule.strategy == "any" else f"{rule.strategy} {shown(rule.pattern)}"


def _env(rule: EnvRule, paint: Paint) -> str:
    kind = paint.warn("pattern") if rule.strategy == "re2" else "exactly"
    required = ", required" if rule.required else ""
    return f"{shown(rule.pattern)}  ({kind}{required})"


def _listed(title: str, items: list[str]) -> Iterator[str]:
    if items:
        yield f"  {title}"
        yield from (f"    {item}" for item in items)


def _capabilities(capabilities: Capabilities | None) -> str:
    if capabilities is None:
        return "what the utility VM computes (the policy is too old to say)"
    sets = {name: frozenset(getattr(capabilities, name)) for name in CAPABILITY_SETS}
    largest = frozenset().union(*sets.values())
    if not largest:
        return "nothing"
    inherited = "" if not sets["inheritable"] | sets["ambient"] else "; children inherit some"
    names = " ".join(sorted(shown(name.removeprefix("CAP_"), 40) for name in largest))
    size = {_UNPRIVILEGED: "the usual 14: ", _PRIVILEGED: "all 41 of a privileged container: "}
    return f"{size.get(len(largest), '')}{names}{inherited}"


def _privileges(container: Container, paint: Paint) -> str:
    return ", ".join(
        (
            paint.bad("privileged") if container.allow_elevated else "not privileged",
            paint.warn("standard streams open to the host")
            if container.allow_stdio_access
            else "standard streams closed to the host",
            "no new privileges" if container.no_new_privileges else "new privileges allowed",
        )
    )


def _flags(policy: Policy, paint: Paint) -> Iterator[str]:
    for name, on in policy.flags:
        word = "yes" if on else "no "
        painted = paint.bad(word) if on and name in _RISKY_FLAGS else word
        yield f"  {painted} {name}: {_FLAG_WORDS[name]}"
    if not policy.flags:
        yield "  none given: all are off"


def _points(policy: Policy, paint: Paint) -> Iterator[str]:
    fixed = [point for point in policy.points if point.fixed is not None]
    if fixed:
        yield ""
        yield paint.head("decided without looking at the request")
    for point in fixed:
        yield f"  {point.name}: {paint.bad(point.words) if point.fixed else point.words}"
