"""The command `policy generate`, with the option names of `az confcom acipolicygen`.

Strategy: read one description, resolve its images, make the policy of each group, then print it or put it
back into the description. Digests go to standard output when a file was changed, and to standard error beside
a printed policy, whose bytes must stay what they are.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.arguments import Commands, command, read_file
from sidecar.cli_policy_inputs import Approver, fragments_of, images_of, with_standalone
from sidecar.errors import ExitCode, PolicyRejected, UsageError

if TYPE_CHECKING:
    from sidecar.policy.generate import GenerateOptions, GroupPolicy
    from sidecar.policy.generate_sources import Source

# What scripts around confcom look for; other commands say 12 for a policy that differs.
_DIFFERENT = ExitCode.USAGE
_MORE = """\
One source: -a TEMPLATE, -i CONFIG, --virtual-node-yaml FILE or --image NAME. A template or a YAML file gets
the policy put in, and its digest is printed, unless a printing option is given; nothing else in it changes.
Images come from the registry, or with --tar from archives and layouts on this machine; no daemon is asked."""


def add_commands(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands, "generate", _generate, "Generate the security policy of container groups.", _MORE
    )
    _add_sources(parser)
    _add_choices(parser)
    _add_output(parser)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sources")
    group.add_argument("-a", "--template-file", type=Path, metavar="FILE", help="ARM template")
    group.add_argument(
        "-p", "--parameters", type=Path, action="append", metavar="FILE",
        help="parameters file of the template; the last of several counts",
    )  # fmt: skip
    group.add_argument("-i", "--input", type=Path, metavar="FILE", help="configuration, JSON")
    group.add_argument("--virtual-node-yaml", type=Path, metavar="FILE", help="Kubernetes objects, YAML")
    group.add_argument("--image", action="append", metavar="NAME", help="an image by itself; repeatable")
    group.add_argument(
        "--tar", type=Path, metavar="FILE",
        help="one image's archive or OCI layout, or JSON from image names to such paths",
    )  # fmt: skip
    group.add_argument("--no-cache", action="store_true", help="hash every layer again and keep nothing")
    group.add_argument(
        "--with-containers", action="append", metavar="JSON|FILE", help="ready entries; repeatable"
    )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the policy says")
    group.add_argument("--debug-mode", action="store_true", help="admit shells, stack dumps, runtime logs")
    group.add_argument("--disable-stdio", action="store_true", help="no container's output leaves the guest")
    group.add_argument("--enable-stdio", action="store_true", help="output may leave the guest (the default)")
    group.add_argument("--omit-id", action="store_true", help="leave the image's name out")
    group.add_argument(
        "--infrastructure-svn", metavar="N", help="least version of the service's own fragment"
    )
    group.add_argument(
        "-e", "--exclude-default-fragments", action="store_true", help="do not import the service's fragment"
    )
    group.add_argument(
        "-f", "--include-fragments", action="store_true", help="import the fragments of --fragments-json"
    )
    group.add_argument("-j", "--fragments-json", type=Path, metavar="FILE", help="imports, JSON")
    group.add_argument(
        "-y", "--approve", "--approve-wildcards", dest="approve", action="store_true",
        help="yes to every question: any value where only the deployment knows it, old policy replaced",
    )  # fmt: skip
    group.add_argument(
        "--users-as-ids", action="store_true", help="pin numbers from the image's account files"
    )
    group.add_argument("--require-env", action="store_true", help="a described variable must be there")
    group.add_argument(
        "--no-env-dropping", action="store_true", help="refuse unknown variables instead of dropping them"
    )
    group.add_argument(
        "--identity-endpoints", action="store_true",
        help="admit the managed identity variables that the service injects since 2026",
    )  # fmt: skip
    group.add_argument("--api-version", metavar="V", help="default 0.11.0")
    group.add_argument("--framework-version", metavar="V", help="default 0.2.3")


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to do with it")
    forms = group.add_mutually_exclusive_group()
    forms.add_argument("--print-policy", action="store_true", help="print its base64")
    forms.add_argument("--outraw", action="store_true", help="print its text")
    forms.add_argument("--outraw-pretty-print", action="store_true", help="print its text for reading")
    forms.add_argument(
        "--print-containers", action="store_true",
        help="print the entries of its containers, JSON for --with-containers",
    )  # fmt: skip
    forms.add_argument(
        "-d", "--diff", action="store_true", help="compare with the policy in the file; exit 2"
    )
    forms.add_argument("--print-existing-policy", action="store_true", help="print the policy in the file")
    group.add_argument("-s", "--save-to-file", type=Path, metavar="FILE", help="write what would be printed")
    group.add_argument("--check-digest", metavar="HEX", help="fail unless this is the digest; exit 12")
    # Hashing streams and needs no choice; the name is taken so that scripts keep working.
    group.add_argument("--faster-hashing", action="store_true", help=argparse.SUPPRESS)
    group.add_argument("-v", "--validate-sidecar", action="store_true", help=argparse.SUPPRESS)


def _generate(arguments: argparse.Namespace) -> int:
    from sidecar.policy.generate import container_entries, generate

    _check(arguments)
    if arguments.print_existing_policy:
        return _print_existing(arguments.template_file or arguments.virtual_node_yaml)
    source = _source(arguments)
    for note in (note for group in source.groups for note in group.notes):
        print(f"sidecar: warning: {note}", file=sys.stderr)
    source = with_standalone(source)
    images = images_of(source, arguments)
    options = _options(arguments, source)
    if arguments.print_containers:
        entries = [one for group in source.groups for one in container_entries(group, images, options)]
        print(json.dumps([one.to_json() for one in entries], indent=2))
        return ExitCode.OK
    policies = [generate(group, images, options) for group in source.groups]
    _check_digest(policies, arguments.check_digest)
    if arguments.diff:
        return _diff(policies)
    printing = arguments.print_policy or arguments.outraw or arguments.outraw_pretty_print
    if source.inject is None or printing or arguments.save_to_file:
        _print(policies, arguments)
    else:
        _inject(source, policies, arguments)
    return ExitCode.OK


def _check(arguments: argparse.Namespace) -> None:
    """Combinations of options that contradict each other."""
    sources = [arguments.template_file, arguments.input, arguments.virtual_node_yaml, arguments.image]
    given = sum(source is not None for source in sources)
    if given > 1 or (given == 0 and not arguments.with_containers):
        raise UsageError("policy generate: wanted one of -a, -i, --virtual-node-yaml, --image")
    if arguments.parameters and arguments.template_file is None:
        raise UsageError("--parameters: only a template (-a) has parameters")
    if arguments.disable_stdio and arguments.enable_stdio:
        raise UsageError("--disable-stdio and --enable-stdio: wanted one of them")
    if arguments.infrastructure_svn is not None:
        if arguments.exclude_default_fragments:
            raise UsageError(
                "--infrastructure-svn: there is no such fragment with --exclude-default-fragments"
            )
        if not (arguments.infrastructure_svn.isascii() and arguments.infrastructure_svn.isdigit()):
            raise UsageError(f"--infrastructure-svn {arguments.infrastructure_svn!r}: wanted a number")
    if bool(arguments.fragments_json) != arguments.include_fragments:
        raise UsageError("--include-fragments and --fragments-json: wanted both or none")
    if arguments.validate_sidecar:
        raise UsageError("--validate-sidecar: only the service's owner can check its own containers")
    if (arguments.diff or arguments.print_existing_policy) and not (
        arguments.template_file or arguments.virtual_node_yaml
    ):
        raise UsageError("--diff, --print-existing-policy: only a template or a YAML file carries a policy")


def _source(arguments: argparse.Namespace) -> Source:
    from sidecar.policy.generate_sources import config_source, image_source, template_source, yaml_source

    approve = Approver(always=arguments.approve)
    if arguments.template_file:
        parameters = [read_file(path) for path in arguments.parameters or ()]
        return template_source(read_file(arguments.template_file), parameters, approve)
    if arguments.virtual_node_yaml:
        return yaml_source(read_file(arguments.virtual_node_yaml), approve)
    if arguments.input:
        return config_source(read_file(arguments.input))
    return image_source(arguments.image or ())


def _options(arguments: argparse.Namespace, source: Source) -> GenerateOptions:
    from sidecar.policy.containers_defaults import INFRASTRUCTURE_SVN
    from sidecar.policy.generate import GenerateOptions
    from sidecar.policy.generate_sources import parse_entries
    from sidecar.policy.rego import DEFAULT_API, DEFAULT_FRAMEWORK, Versions

    if arguments.debug_mode:
        print("sidecar: warning: debug mode: whoever reaches the host may open a shell", file=sys.stderr)
    imports, covering = fragments_of(arguments, source)
    svn = arguments.infrastructure_svn or INFRASTRUCTURE_SVN
    if int(svn) < int(INFRASTRUCTURE_SVN):
        print(f"sidecar: warning: infrastructure svn {svn} is below {INFRASTRUCTURE_SVN}", file=sys.stderr)
    return GenerateOptions(
        debug=arguments.debug_mode,
        stdio=not arguments.disable_stdio,
        omit_id=arguments.omit_id,
        users_as_ids=arguments.users_as_ids,
        require_env=arguments.require_env,
        identity_2026=arguments.identity_endpoints,
        env_dropping=not arguments.no_env_dropping,
        default_fragment=not arguments.exclude_default_fragments,
        infrastructure_svn=svn,
        imports=tuple(one.to_json() for one in imports),
        covering=covering,
        further=parse_entries(_json_or_file(text) for text in arguments.with_containers or ()),
        versions=Versions(
            arguments.api_version or DEFAULT_API, arguments.framework_version or DEFAULT_FRAMEWORK
        ),
    )


def _json_or_file(text: str) -> str:
    """JSON itself, or that of the file it names."""
    if text.lstrip().startswith(("{", "[")):
        return text
    return read_file(Path(text)).decode("utf-8", "replace")


# -- results --------------------------------------------------------------------------------------


def _check_digest(policies: list[GroupPolicy], wanted: str | None) -> None:
    if wanted is None:
        return
    for policy in policies:
        if policy.digest != wanted.lower():
            raise PolicyRejected(
                f"group {policy.group.name!r}: digest {policy.digest}, wanted {wanted}",
                hint="compare the policies with `sidecar policy diff`",
            )


def _print(policies: list[GroupPolicy], arguments: argparse.Namespace) -> None:
    """Each policy in the form asked for, two empty lines after it."""
    from sidecar.policy.inspect_text import shown

    form = "encoded"
    if arguments.outraw or arguments.outraw_pretty_print:
        form = "pretty" if arguments.outraw_pretty_print else "text"
    texts = [f"{getattr(policy, form)}\n\n\n" for policy in policies]
    if arguments.save_to_file:
        try:
            arguments.save_to_file.write_text("".join(texts), encoding="ascii")
        except OSError as exc:
            raise UsageError(f"file {arguments.save_to_file}: {exc.strerror}") from exc
    else:
        sys.stdout.write("".join(texts))
    for policy in policies:
        print(f"sidecar: digest {policy.digest} {shown(policy.group.name)}", file=sys.stderr)


def _inject(source: Source, policies: list[GroupPolicy], arguments: argparse.Namespace) -> None:
    from sidecar.policy.containers_common import approved
    from sidecar.policy.inject_file import replace_file

    assert source.inject is not None
    for policy in policies:
        if policy.group.existing and policy.group.existing != policy.encoded:
            what = f"group {policy.group.name!r}: carries another policy already"
            approved(Approver(always=arguments.approve), f"{what}; replace it?", what)
    after = source.inject([policy.encoded for policy in policies])
    path = arguments.template_file or arguments.virtual_node_yaml
    if str(path) == "-":
        raise UsageError("a policy cannot be put into standard input", hint="--print-policy prints it")
    replace_file(path, source.data, after)
    for policy in policies:
        print(policy.digest)


def _print_existing(path: Path) -> int:
    """The policies that a file carries, whatever its containers are."""
    from sidecar.policy.digest import find_policies
    from sidecar.policy.inspect_text import shown

    for policy in find_policies(read_file(path), what=f"file {path}"):
        text = policy.text.decode("utf-8", "backslashreplace")
        print(f"CCE Policy for Container Group: {shown(policy.name)}\n\n{text}")
    return ExitCode.OK


def _diff(policies: list[GroupPolicy]) -> int:
    """Each group's policy held against the one it carries, as JSON; confcom's exit code for a difference."""
    from sidecar.policy.diff import compare
    from sidecar.policy.digest import FoundPolicy
    from sidecar.securitypolicy import policy_text

    differences = {}
    for policy in policies:
        name = policy.group.name
        if not policy.group.existing:
            raise UsageError(f"group {name!r}: carries no policy to compare with")
        existing = FoundPolicy(name, policy_text(policy.group.existing.encode()))
        differences[name] = compare(existing, FoundPolicy(name, policy.text.encode()))
    if all(difference.same for difference in differences.values()):
        print("sidecar: the policies in the file are those of its containers", file=sys.stderr)
        return ExitCode.OK
    print(json.dumps({name: difference.to_json() for name, difference in differences.items()}, indent=1))
    return _DIFFERENT
