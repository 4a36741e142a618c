"""Commands on fragments: `policy fragment` with its actions, and `policy testchain`.

Strategy: without an action, `fragment` makes one, with the option names of `az confcom acifragmentgen`.
What is written is public, except the test chain's key.

Kind: entry
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar import cli_policy_fragment_read, cli_policy_fragment_registry
from sidecar.arguments import Commands, command, read_file, write_secret
from sidecar.cli_policy_fragment_registry import attach_to_image, feed_of, fragments_at, push_alone
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_MORE = """\
Writes NAME.rego and, with --key and --chain, NAME.rego.cose. With --generate-import: prints the statement by
which a policy accepts a signed fragment, or adds it to --fragments-json. With --upload-fragment: attaches it
to --image-target, or pushes it to its feed. Containers are those of images (--image, --input), of a policy,
or given ready."""
_ALGORITHMS = ("PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def add_commands(commands: Commands) -> None:
    """Declare the commands."""
    parser = command(
        commands, "fragment", _make, "Make, sign, verify and import a fragment of a security policy.", _MORE
    )
    _add_make(parser)
    actions = parser.add_subparsers(metavar="ACTION")
    cli_policy_fragment_read.add_actions(actions)
    cli_policy_fragment_registry.add_actions(actions)
    _add_testchain(commands)


# -- make -----------------------------------------------------------------------------------------


def _add_make(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what it says")
    what.add_argument("-n", "--namespace", metavar="NAME", help="its package")
    what.add_argument("--svn", metavar="N", help="its security version")
    what.add_argument("--image", action="append", metavar="NAME", help="an image by itself; repeatable")
    what.add_argument("-i", "--input", type=Path, metavar="FILE", help="configuration, JSON")
    what.add_argument(
        "--tar", type=Path, metavar="FILE", help="one image's archive, or JSON from image names to paths"
    )
    what.add_argument("--omit-id", action="store_true", help="leave the image's name out")
    what.add_argument("--disable-stdio", action="store_true", help="no output leaves the guest")
    what.add_argument("--enable-stdio", action="store_true", help="output may leave it (the default)")
    what.add_argument("--debug-mode", action="store_true", help="admit shells")
    what.add_argument("--no-cache", action="store_true", help="hash all layers again")
    what.add_argument(
        "--with-containers", action="append", metavar="JSON|FILE", help="ready container entries; repeatable"
    )
    what.add_argument("--from-policy", type=Path, metavar="FILE", help="containers of a policy")
    what.add_argument("--group", metavar="NAME", help="its container group, where it has several")
    what.add_argument(
        "--container", action="append", metavar="NAME", help="only these of --from-policy; repeatable"
    )
    what.add_argument("--imports", type=Path, metavar="FILE", help="fragments that it accepts itself, JSON")
    what.add_argument(
        "-e", "--exclude-default-fragments", action="store_true", help="do not import the service's fragment"
    )
    what.add_argument("--framework-version", default="0.2.3", metavar="V", help="default %(default)s")
    _add_signing(parser)
    _add_output(parser)


def _add_signing(parser: argparse.ArgumentParser) -> None:
    sign = parser.add_argument_group("signing")
    sign.add_argument("-k", "--key", type=Path, metavar="PEM", help="private key of the chain's leaf")
    sign.add_argument("--chain", type=Path, metavar="PEM", help="certificates, leaf first, root last")
    sign.add_argument("--algo", choices=_ALGORITHMS, help="default: the key's own, ES384 for P-384")
    sign.add_argument("-f", "--feed", metavar="NAME", help="default: the --image-target, without its tag")
    sign.add_argument("-u", "--upload-fragment", action="store_true", help="attach or push it")
    sign.add_argument("--image-target", metavar="IMAGE", help="image to attach it to")


def _add_output(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("output")
    out.add_argument("--output-filename", type=Path, metavar="NAME", help="default: the namespace")
    out.add_argument("--outraw", action="store_true", help="compact text instead of pretty")
    out.add_argument("--no-print", action="store_true", help="do not print the text")
    make = parser.add_argument_group("import statement")
    make.add_argument("-g", "--generate-import", action="store_true")
    make.add_argument("-p", "--fragment-path", metavar="FILE|NAME", help="the signed fragment")
    make.add_argument("--minimum-svn", default="", metavar="N", help="default: the fragment's own")
    make.add_argument("-j", "--fragments-json", type=Path, metavar="FILE", help="file of imports to add to")


def _make(arguments: argparse.Namespace) -> None:
    from sidecar.policy.fragment import load_signer, sign_fragment

    if arguments.generate_import:
        _generate_import(arguments)
        return
    _check(arguments)
    # The signer is read first: nothing is hashed or written when it is of no use.
    signer = (
        load_signer(read_file(arguments.key), read_file(arguments.chain), algorithm=arguments.algo)
        if arguments.key
        else None
    )
    text = _text(arguments)
    base = arguments.output_filename or Path(arguments.namespace)
    _write(base.with_name(f"{base.name}.rego"), text)
    if signer is not None:
        feed = arguments.feed or feed_of(arguments.image_target)
        signed = sign_fragment(text, signer, feed=feed)
        path = base.with_name(f"{base.name}.rego.cose")
        _write(path, signed)
        print(f"sidecar: signed as {signer.issuer}", file=sys.stderr)
        if arguments.upload_fragment:
            _upload(arguments, signed, feed, path.name)
    if not arguments.no_print:
        sys.stdout.write(text.decode())


def _check(arguments: argparse.Namespace) -> None:
    """Combinations of options that contradict each other, or lack something."""
    if not (arguments.namespace and arguments.svn):
        raise UsageError("policy fragment: wanted --namespace and --svn, or --generate-import")
    if bool(arguments.key) != bool(arguments.chain):
        raise UsageError("--key and --chain: wanted both or none")
    if arguments.key and not (arguments.feed or arguments.image_target):
        raise UsageError("policy fragment: a signed fragment has a feed", hint="name its image: --feed NAME")
    if arguments.upload_fragment and not arguments.key:
        raise UsageError("--upload-fragment: only a signed fragment can be uploaded: --key, --chain")
    if arguments.image_target and not arguments.upload_fragment:
        raise UsageError("--image-target: goes with --upload-fragment")
    if arguments.image and arguments.input:
        raise UsageError("--image and --input: wanted one of them")
    if arguments.disable_stdio and arguments.enable_stdio:
        raise UsageError("--disable-stdio and --enable-stdio: wanted one of them")


def _upload(arguments: argparse.Namespace, signed: bytes, feed: str, title: str) -> None:
    if arguments.image_target:
        digest = attach_to_image(signed, arguments.image_target, title=title)
        print(f"sidecar: attached to {arguments.image_target} as {digest}", file=sys.stderr)
    else:
        digest = push_alone(signed, feed, svn=arguments.svn, title=title)
        print(f"sidecar: pushed to {feed} as {digest}", file=sys.stderr)


def _text(arguments: argparse.Namespace) -> bytes:
    """The fragment's text, of containers from all sources in the order of the options' help."""
    from sidecar.policy.containers_defaults import INFRASTRUCTURE_SVN, infrastructure_fragment
    from sidecar.policy.fragment_text import build_fragment_text, parse_imports
    from sidecar.policy.generate_sources import parse_entries

    entries: list[Mapping[str, object]] = _entries_of_images(arguments)
    for given in arguments.with_containers or ():
        inline = given.lstrip().startswith(("[", "{"))
        ready = given if inline else read_file(Path(given)).decode("utf-8", "replace")
        entries += [entry.to_json() for entry in parse_entries([ready])]
    if arguments.from_policy:
        entries += _entries_of_policy(arguments.from_policy, arguments.group, arguments.container)
    imports = parse_imports(read_file(arguments.imports)) if arguments.imports else ()
    if not entries and not imports:
        raise UsageError("policy fragment: no containers", hint="name some: --image, --from-policy, ...")
    default = [] if arguments.exclude_default_fragments else [infrastructure_fragment(INFRASTRUCTURE_SVN)]
    return build_fragment_text(
        arguments.namespace,
        arguments.svn,
        entries,
        imports=[*(one.to_json() for one in imports), *default],
        framework_version=arguments.framework_version,
        compact=arguments.outraw,
    )


def _entries_of_images(arguments: argparse.Namespace) -> list[Mapping[str, object]]:
    """The containers of --image and --input, merged with their images as for a policy."""
    from sidecar.cli_policy_inputs import images_of
    from sidecar.policy.generate import GenerateOptions, container_entries
    from sidecar.policy.generate_sources import config_source, image_source
    from sidecar.policy.rego import Versions

    if not arguments.image and not arguments.input:
        return []
    source = config_source(read_file(arguments.input)) if arguments.input else image_source(arguments.image)
    if arguments.debug_mode:
        print("sidecar: warning: debug mode: whoever reaches the host may open a shell", file=sys.stderr)
    images = images_of(source, arguments)
    options = GenerateOptions(
        debug=arguments.debug_mode,
        stdio=not arguments.disable_stdio,
        omit_id=arguments.omit_id,
        versions=Versions(framework=arguments.framework_version),
    )
    return [entry.to_json() for group in source.groups for entry in container_entries(group, images, options)]


def _entries_of_policy(
    path: Path, group: str | None, names: list[str] | None
) -> Sequence[Mapping[str, object]]:
    from sidecar.policy.digest import only_policy
    from sidecar.policy.parse import parse_policy

    what = f"file {path}"
    policy = parse_policy(only_policy(read_file(path), what=what, group=group).text, what=what)
    chosen = [c for c in policy.containers if names is None or c.name in names or c.id in names]
    if missing := set(names or ()) - {text for c in chosen for text in (c.name, c.id)}:
        raise UsageError(f"file {path}: no container {min(missing)!r} in its policy")
    # Every group brings its own pause container.
    return [c.to_json() for c in chosen if names or c.name != "pause-container"]


# -- import ---------------------------------------------------------------------------------------


def _generate_import(arguments: argparse.Namespace) -> None:
    from sidecar.policy.fragment import verify_fragment
    from sidecar.policy.fragment_text import add_import, build_imports, import_of, parse_imports

    path = arguments.fragments_json
    known = parse_imports(read_file(path), what=f"file {path}") if path and path.exists() else ()
    for data in _signed(arguments):
        fragment = verify_fragment(data)
        statement = import_of(
            fragment.content, issuer=fragment.issuer, feed=fragment.feed, minimum_svn=arguments.minimum_svn
        )
        known = add_import(known, statement)
    if path is None:
        sys.stdout.write(build_imports(known).decode())
    else:
        _write(path, build_imports(known))


def _signed(arguments: argparse.Namespace) -> list[bytes]:
    """The signed fragments that imports are wanted for: a file, a name in a registry, those of images."""
    given, images = arguments.fragment_path, arguments.image or ()
    if bool(given) == bool(images):
        raise UsageError("--generate-import: wanted --fragment-path FILE, or --image NAME it is attached to")
    if given and (given == "-" or Path(given).exists()):
        return [read_file(Path(given))]
    found = [stored.data for name in ([given] if given else images) for stored in fragments_at(name)]
    if not found:
        raise UsageError(f"{', '.join(images)}: no fragments are attached")
    return found


# -- testchain ------------------------------------------------------------------------------------


def _add_testchain(commands: Commands) -> None:
    parser = command(
        commands,
        "testchain",
        _testchain,
        "Make a certificate chain to sign test fragments with: key.pem and chain.pem, mode 0600.",
        "Prints the did:x509 issuer. Files that are there are never replaced.",
    )
    parser.add_argument("directory", type=Path, nargs="?", default=Path(), help="default: this one")
    parser.add_argument("--name", default="Test Fragment Signer", help="the leaf's common name (%(default)s)")
    parser.add_argument(
        "--kind", choices=("p256", "p384", "p521", "rsa", "ed25519"), default="p384", help="(%(default)s)"
    )
    parser.add_argument("--days", type=int, default=365, help="for which it is valid (%(default)s)")


def _testchain(arguments: argparse.Namespace) -> None:
    from sidecar.policy.testchain import make_test_chain

    chain = make_test_chain(
        now=datetime.now(UTC), name=arguments.name, kind=arguments.kind, days=arguments.days
    )
    folder: Path = arguments.directory
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"folder {folder}: {exc.strerror}") from exc
    paths = [folder / "key.pem", folder / "chain.pem"]
    for path in paths:
        if path.exists():
            raise UsageError(f"file {path}: is there already; nothing was written")
    write_secret(paths[0], chain.key_pem)
    write_secret(paths[1], chain.chain_pem)
    print("sidecar: for tests only: whoever has key.pem can sign for this issuer", file=sys.stderr)
    print(chain.issuer)


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise UsageError(f"file {path}: {exc.strerror}") from exc
