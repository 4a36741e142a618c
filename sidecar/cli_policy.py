"""Commands on security policies: generate, digest, inspect, diff, lint, denial, fragment, testchain.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar import cli_policy_fragment, cli_policy_generate, cli_policy_layers
from sidecar.arguments import Commands, command, read_file
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.policy.digest import FoundPolicy
    from sidecar.policy.inspect_text import Paint
    from sidecar.policy.lint import Finding, ImageLayers
    from sidecar.policy.parse_model import Policy

_SOURCES = (
    "FILE is a policy's Rego text or its base64, an ARM template or deployed group (JSON) that carries\n"
    "it, or a manifest (YAML) with the virtual nodes' annotation; - is standard input; no FILE: the\n"
    "policy that this machine runs under."
)


def add_commands(commands: Commands) -> None:
    """Declare the group."""
    parser = commands.add_parser(
        "policy", help="Work with security policies.", description="Security policies."
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    cli_policy_generate.add_commands(actions)
    cli_policy_layers.add_commands(actions)
    _add_digest(actions)
    _add_inspect(actions)
    _add_diff(actions)
    _add_lint(actions)
    _add_denial(actions)
    cli_policy_fragment.add_commands(actions)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", help="- for standard input")
    parser.add_argument("--group", metavar="NAME", help="the container group, where a file has several")


def _found(path: Path | None, what: str = "") -> tuple[FoundPolicy, ...]:
    """The policies of a file, or the one this machine runs under."""
    from sidecar.policy.digest import FoundPolicy, find_policies
    from sidecar.uvm import read_uvm

    if path is not None:
        return find_policies(read_file(path), what=what or f"file {path}")
    uvm = read_uvm()
    if uvm.security_policy is None:
        raise UsageError(
            "no file given, and this machine runs under no security policy",
            hint="name a file, or - for stdin",
        )
    return (FoundPolicy("", uvm.security_policy),)


def _chosen(path: Path | None, group: str | None) -> tuple[FoundPolicy, ...]:
    found = _found(path)
    chosen = tuple(policy for policy in found if group in (None, policy.name))
    if not chosen:
        names = ", ".join(repr(policy.name) for policy in found)
        raise UsageError(f"--group {group}: no such container group, wanted one of {names}")
    return chosen


def _paint(arguments: argparse.Namespace) -> Paint:
    """Colour on a terminal, unless the user wants none."""
    from sidecar.policy.inspect_text import Paint

    automatic = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Paint({"always": True, "never": False}.get(arguments.colour, automatic))


def _add_colour(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--colour",
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="default: %(default)s",
    )


# -- digest ---------------------------------------------------------------------------------------


def _add_digest(actions: Commands) -> None:
    parser = command(
        actions,
        "digest",
        _digest,
        "Print the SHA-256 of a security policy: HOST_DATA of a guest that runs under it.",
        _SOURCES + "\nA file with several groups: a line each, with the group's name.",
    )
    _add_source(parser)
    _add_digest_options(parser)


def _add_digest_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--policy", metavar="BASE64", help="the policy itself, in base64")
    parser.add_argument("-f", dest="further", type=Path, metavar="FILE", help="the same as FILE")
    parser.add_argument("-v", action="store_true", help="print the policy's text to standard error as well")
    parser.add_argument("--check", metavar="HEX", help="wanted digest; exit code 12 when it is another")


def _digest(arguments: argparse.Namespace) -> None:
    from sidecar.errors import PolicyRejected
    from sidecar.policy.digest import find_policies

    given = [x for x in (arguments.file, arguments.further, arguments.policy) if x is not None]
    if len(given) > 1:
        raise UsageError("digest: wanted one of FILE, -f FILE and -p BASE64")
    if arguments.policy is not None:
        found = find_policies(arguments.policy.encode(), what="-p")
    else:
        found = _chosen(arguments.file or arguments.further, arguments.group)
    for policy in found:
        if arguments.v:
            sys.stderr.write(policy.text.decode("utf-8", "replace").rstrip("\n") + "\n")
        print(policy.digest if len(found) == 1 else f"{policy.digest}  {policy.name}")
        if arguments.check and arguments.check.lower() != policy.digest:
            raise PolicyRejected(
                f"{policy.label}: digest {policy.digest}, wanted {arguments.check[:64]}",
                hint="sidecar policy diff shows what changed between two policies",
            )


# -- inspect --------------------------------------------------------------------------------------


def _add_inspect(actions: Commands) -> None:
    parser = command(
        actions, "inspect", _inspect, "Show what a security policy admits, container by container.", _SOURCES
    )
    _add_source(parser)
    parser.add_argument("--json", action="store_true")
    _add_colour(parser)


def _inspect(arguments: argparse.Namespace) -> None:
    from sidecar.policy.inspect import describe_policy
    from sidecar.policy.parse import parse_policy

    found = _chosen(arguments.file, arguments.group)
    policies = [(policy, parse_policy(policy.text, what=policy.label)) for policy in found]
    if arguments.json:
        shown = [{"group": f.name or None, "digest": f.digest} | policy.to_json() for f, policy in policies]
        print(json.dumps(shown[0] if len(shown) == 1 else shown, indent=1))
        return
    paint = _paint(arguments)
    for number, (f, policy) in enumerate(policies):
        if number:
            print()
        if f.name:
            print(f"{paint.head('container group')} {f.name}")
        print(describe_policy(policy, f.digest, paint))


# -- diff -----------------------------------------------------------------------------------------


def _add_diff(actions: Commands) -> None:
    parser = command(
        actions,
        "diff",
        _diff,
        "Show what changed between two security policies, with both digests.",
        "A and B as for inspect. Exit code 0: the same policy; 12: they differ.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="the older one")
    parser.add_argument(
        "b", type=Path, metavar="B", nargs="?", help="default: the one this machine runs under"
    )
    parser.add_argument("--group", metavar="NAME", help="the container group, where a file has several")
    parser.add_argument("--json", action="store_true")
    _add_colour(parser)


def _diff(arguments: argparse.Namespace) -> int:
    from sidecar.errors import ExitCode
    from sidecar.policy.diff import compare, describe_difference

    before, after = (_one(path, arguments.group) for path in (arguments.a, arguments.b))
    difference = compare(before, after)
    if arguments.json:
        print(json.dumps(difference.to_json(), indent=1))
    else:
        print(describe_difference(difference, _paint(arguments)))
    return ExitCode.OK if difference.same else ExitCode.POLICY_REJECTED


def _one(path: Path | None, group: str | None) -> FoundPolicy:
    """The one policy of a file; one group's, when the file has several."""
    found = _found(path)
    chosen = found if len(found) == 1 else _chosen(path, group)
    if len(chosen) > 1:
        names = ", ".join(repr(policy.name) for policy in chosen)
        raise UsageError(f"file {path}: several policies, of {names}", hint="say which: --group NAME")
    return chosen[0]


# -- lint -----------------------------------------------------------------------------------------


def _add_lint(actions: Commands) -> None:
    parser = command(
        actions,
        "lint",
        _lint,
        "Find what is weak in a security policy, or likely to fail.",
        _SOURCES + "\nExit code 12 when something is found at the level of --fail-on, or worse.",
    )
    _add_source(parser)
    parser.add_argument(
        "--images", action="store_true", help="look at the images as well: moved tags, parent directories"
    )
    parser.add_argument(
        "--fail-on", choices=("error", "warning", "note", "never"), default="error", help="(%(default)s)"
    )
    parser.add_argument("--json", action="store_true")
    _add_colour(parser)


def _lint(arguments: argparse.Namespace) -> int:
    from sidecar.errors import ExitCode
    from sidecar.policy.lint import Level, describe_findings, lint_policy
    from sidecar.policy.parse import parse_policy

    found = _chosen(arguments.file, arguments.group)
    findings: dict[str, tuple[Finding, ...]] = {}
    for policy in found:
        parsed = parse_policy(policy.text, what=policy.label)
        images = _images_of(parsed) if arguments.images else None
        findings[policy.name] = lint_policy(parsed, images=images)
    if arguments.json:
        shown = {name: [finding.to_json() for finding in listed] for name, listed in findings.items()}
        print(json.dumps(shown if len(found) > 1 else next(iter(shown.values())), indent=1))
    else:
        paint = _paint(arguments)
        for name, listed in findings.items():
            print(f"{paint.head('container group')} {name}\n" * bool(name) + describe_findings(listed, paint))
    order = [*Level, "never"]
    worst = order[: order.index(arguments.fail_on) + 1] if arguments.fail_on != "never" else []
    failed = any(finding.level in worst for listed in findings.values() for finding in listed)
    return ExitCode.POLICY_REJECTED if failed else ExitCode.OK


def _images_of(policy: Policy) -> dict[str, ImageLayers]:
    """The layers of the containers' images as they are now."""
    import trio

    from sidecar.policy.images import hash_image

    async def run() -> dict[str, ImageLayers]:
        found: dict[str, ImageLayers] = {}
        for name in dict.fromkeys(container.id for container in policy.containers if container.id):
            hashed = await hash_image(name, environ=os.environ)
            found[name] = tuple(
                (layer.result.root_hash, layer.result.implicit_count) for layer in hashed.layers
            )
        return found

    return trio.run(run)


# -- denial ---------------------------------------------------------------------------------------


def _add_denial(actions: Commands) -> None:
    parser = command(
        actions,
        "denial",
        _denial,
        "Say in words why the policy refused a container: the policyDecision of a failed start.",
        "FILE holds the event's text, or the base64 of the decision alone; default: standard input.",
    )
    parser.add_argument("file", nargs="?", default="-", metavar="FILE|BASE64")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="the policy, to say what it wants")
    parser.add_argument("--group", metavar="NAME", help="its container group, where the file has several")
    parser.add_argument("--json", action="store_true")
    _add_colour(parser)


def _denial(arguments: argparse.Namespace) -> None:
    from sidecar.policy.denial import describe_denial, parse_denial
    from sidecar.policy.parse import parse_policy

    path = Path(arguments.file)
    # A name that is no file and too long for one is the decision itself.
    pasted = "policyDecision" in arguments.file or len(arguments.file) > 200
    denial = parse_denial(arguments.file.encode() if pasted else read_file(path))
    containers = (
        parse_policy(_one(arguments.policy, arguments.group).text).containers if arguments.policy else ()
    )
    if arguments.json:
        print(json.dumps(denial.to_json(), indent=1))
    else:
        print(describe_denial(denial, _paint(arguments), containers=containers))
