"""A container's description merged with its image: what the policy admits.

Strategy: the description wins, the image fills in, the scenario's own rules come last. Order matters:
environment rules and mounts keep it in the policy's text, and so in its digest.

Rules: an image without layers, or layers that are no root hashes, never makes an entry.

Spec: confcom's merge (1.2.7 and later); Kubernetes, "Define a Command and Arguments for a Container".

Kind: pure
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.containers import (
    ContainerEntry,
    ContainerSpec,
    EnvRule,
    Mount,
    Scenario,
    check_path,
    literal_env,
)
from sidecar.policy.containers_defaults import (
    ACI_ENV,
    ACI_MOUNTS,
    DEBUG_SHELLS,
    IDENTITY_2026_ENV,
    VN2_ENV,
    VN2_MOUNTS,
    is_sidecar,
)
from sidecar.policy.containers_security import capabilities_of
from sidecar.policy.containers_users import user_rule
from sidecar.policy.image import ResolvedImage
from sidecar.policy.members import ExecProcess

_HASH = re.compile(r"[0-9a-f]{64}")
# Linux on amd64, the only platform of confidential containers.
_SIGNALS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
    "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17,
    "CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25,
    "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31, "UNUSED": 31,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """What the command line decides for every container.

    `signals` are those that every container of this framework version needs; `users_as_ids` names users and
    groups by number; `require_env` makes the description's own variables required.
    """

    scenario: Scenario = Scenario.ACI
    debug: bool = False
    stdio: bool = True
    omit_id: bool = False
    signals: tuple[int, ...] = ()
    users_as_ids: bool = False
    require_env: bool = False
    identity_2026: bool = False
    repeat_processes: bool = False


def merge(spec: ContainerSpec, image: ResolvedImage, options: MergeOptions) -> ContainerEntry:
    """The policy entry of one container.

    Raises:
        MalformedInput: the image has no layers, an unknown user, signal or working directory.
    """
    what = f"container {spec.name!r}"
    named = not options.omit_id or spec.name != spec.image
    return ContainerEntry(
        name=spec.name if named else None,
        id=None if options.omit_id else spec.image,
        layers=_layers(image, what),
        command=_command(spec, image),
        env_rules=_env(spec, image, options, what),
        mounts=_mounts(spec, options),
        exec_processes=_processes(spec, options),
        signals=_signals(image, options.signals, what),
        user=user_rule(spec.security, image, what, as_ids=options.users_as_ids),
        capabilities=capabilities_of(spec.security),
        working_dir=check_path(
            spec.working_dir or image.config.working_dir or "/", f"{what}: working directory"
        ),
        allow_elevated=spec.security.privileged,
        allow_stdio_access=options.stdio,
        no_new_privileges=not spec.security.allow_privilege_escalation,
        seccomp_profile_sha256=spec.security.seccomp_sha256,
    )


def _layers(image: ResolvedImage, what: str) -> tuple[str, ...]:
    if not image.layers:
        raise MalformedInput(
            f"{what}: its image has no layers", hint="a policy without layers admits nothing; check the image"
        )
    for layer in image.layers:
        if not _HASH.fullmatch(layer):
            raise MalformedInput(f"{what}: layer hash {layer[:80]!r}, wanted 64 hex digits")
    return image.layers


def _command(spec: ContainerSpec, image: ResolvedImage) -> tuple[str, ...] | None:
    if spec.entrypoint:
        return spec.entrypoint + (spec.arguments or ())
    command = image.config.entrypoint + (spec.arguments or image.config.cmd)
    # Where nobody says a command, policies of Kubernetes objects have an empty list and all others null.
    return command or (None if spec.arguments is None else ())


def _processes(spec: ContainerSpec, options: MergeOptions) -> tuple[ExecProcess, ...]:
    processes = spec.exec_processes + (DEBUG_SHELLS if options.debug else ())
    return processes if options.repeat_processes else tuple(dict.fromkeys(processes))


def _env(spec: ContainerSpec, image: ResolvedImage, options: MergeOptions, what: str) -> tuple[EnvRule, ...]:
    rules = [
        EnvRule(rule.name, rule.pattern, rule.strategy, required=rule.required or options.require_env)
        for rule in spec.env
    ]
    taken = {rule.name for rule in rules}
    for text in image.config.env:
        name, separator, value = text.partition("=")
        # An entry without a value is one that the engine fills from its own environment: none here.
        if separator and name not in taken:
            rules.append(literal_env(name, value, f"{what}: its image"))
    taken = {rule.name for rule in rules}
    injected = ACI_ENV + (VN2_ENV if options.scenario is Scenario.VN2 else ())
    if options.identity_2026:
        injected += IDENTITY_2026_ENV
    return (*rules, *(rule for rule in injected if rule.name not in taken))


def _mounts(spec: ContainerSpec, options: MergeOptions) -> tuple[Mount, ...]:
    if is_sidecar(spec.image):
        return spec.mounts
    return spec.mounts + (ACI_MOUNTS if options.scenario is Scenario.ACI else VN2_MOUNTS)


def _signals(image: ResolvedImage, always: tuple[int, ...], what: str) -> tuple[int, ...]:
    stop = image.config.stop_signal
    if not stop:
        return always
    number = _signal_number(stop, what)
    return always if number in always else (*always, number)


def _signal_number(text: str, what: str) -> int:
    """A signal by number or name; SIGRTMIN and SIGRTMAX with an offset too."""
    if text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= 64:
        return int(text)
    name = text.upper().removeprefix("SIG")
    if name in _SIGNALS:
        return _SIGNALS[name]
    real_time = re.fullmatch(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?", name)
    if real_time is not None:
        # glibc and musl keep the first two real-time signals for themselves.
        base, sign, offset = 34 if real_time[1] == "MIN" else 64, real_time[2], int(real_time[3] or 0)
        number = base - offset if sign == "-" else base + offset
        if 34 <= number <= 64:
            return number
    raise MalformedInput(f"{what}: its image's stop signal {text[:40]!r} is not one that Linux has")
