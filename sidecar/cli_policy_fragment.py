"""Commands on fragments: `policy fragment` with its actions, and `policy testchain`.

Strategy: without an action, `fragment` makes one, with the option names of `az confcom acifragmentgen`; the
actions verify, inspect and import read one. Everything that is written is public except the test chain's
key.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.arguments import Commands, command, read_file, write_secret
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.policy.fragment import Fragment
    from sidecar.policy.parse_model import FragmentImport, FragmentText

_MORE = """\
Writes NAME.rego and, with --key and --chain, NAME.rego.cose. With --generate-import: prints the statement by
which a policy accepts a signed fragment, or adds it to --fragments-json."""
_ALGORITHMS = ("PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_MAX_SIGNED = 1 << 20


def add_commands(commands: Commands) -> None:
    """Declare the commands."""
    parser = command(
        commands, "fragment", _make, "Make, sign, verify and import a fragment of a security policy.", _MORE
    )
    _add_make(parser)
    actions = parser.add_subparsers(metavar="ACTION")
    _add_verify(actions)
    _add_inspect(actions)
    _add_testchain(commands)


# -- make -----------------------------------------------------------------------------------------


def _add_make(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what it says")
    what.add_argument("-n", "--namespace", metavar="NAME", help="its package")
    what.add_argument("--svn", metavar="N", help="its security version")
    what.add_argument(
        "--with-containers", action="append", metavar="JSON|FILE", help="ready container entries; repeatable"
    )
    what.add_argument(
        "--from-policy", type=Path, metavar="FILE", help="containers of a policy, a template..."
    )
    what.add_argument(
        "--container", action="append", metavar="NAME", help="only these of --from-policy; repeatable"
    )
    what.add_argument("--imports", type=Path, metavar="FILE", help="fragments that it accepts itself, JSON")
    what.add_argument("--framework-version", default="0.2.3", metavar="V", help="default %(default)s")
    sign = parser.add_argument_group("signing")
    sign.add_argument("-k", "--key", type=Path, metavar="PEM", help="private key of the chain's leaf")
    sign.add_argument("--chain", type=Path, metavar="PEM", help="certificates, leaf first, root last")
    sign.add_argument("--algo", choices=_ALGORITHMS, help="default: the key's own, ES384 for P-384")
    sign.add_argument("-f", "--feed", metavar="NAME", help="image or repository it belongs to, without a tag")
    out = parser.add_argument_group("output")
    out.add_argument("--output-filename", type=Path, metavar="NAME", help="default: the namespace")
    out.add_argument("--outraw", action="store_true", help="compact text instead of pretty")
    out.add_argument("--no-print", action="store_true", help="do not print the text")
    make = parser.add_argument_group("import statement")
    make.add_argument("-g", "--generate-import", action="store_true")
    make.add_argument("-p", "--fragment-path", type=Path, metavar="FILE", help="the signed fragment")
    make.add_argument("--minimum-svn", default="", metavar="N", help="default: the fragment's own")
    make.add_argument("-j", "--fragments-json", type=Path, metavar="FILE", help="file of imports to add to")


def _make(arguments: argparse.Namespace) -> None:
    from sidecar.policy.fragment import load_signer, sign_fragment
    from sidecar.policy.fragment_text import build_fragment_text, parse_imports

    if arguments.generate_import:
        _generate_import(arguments)
        return
    if not (arguments.namespace and arguments.svn):
        raise UsageError("policy fragment: wanted --namespace and --svn, or --generate-import")
    if bool(arguments.key) != bool(arguments.chain):
        raise UsageError("--key and --chain: wanted both or none")
    if arguments.key and not arguments.feed:
        raise UsageError("policy fragment: a signed fragment has a feed", hint="name its image: --feed NAME")
    # The signer is read first: nothing is written when it is of no use.
    signer = (
        load_signer(read_file(arguments.key), read_file(arguments.chain), algorithm=arguments.algo)
        if arguments.key
        else None
    )
    imports = parse_imports(read_file(arguments.imports)) if arguments.imports else ()
    text = build_fragment_text(
        arguments.namespace,
        arguments.svn,
        _containers(arguments),
        imports=[one.to_json() for one in imports],
        framework_version=arguments.framework_version,
        compact=arguments.outraw,
    )
    base = arguments.output_filename or Path(arguments.namespace)
    _write(base.with_name(f"{base.name}.rego"), text)
    if signer is not None:
        _write(base.with_name(f"{base.name}.rego.cose"), sign_fragment(text, signer, feed=arguments.feed))
        print(f"sidecar: signed as {signer.issuer}", file=sys.stderr)
    if not arguments.no_print:
        sys.stdout.write(text.decode())


def _containers(arguments: argparse.Namespace) -> list[Mapping[str, object]]:
    """Entries of all sources, in the order of the options' help."""
    found: list[Mapping[str, object]] = []
    for given in arguments.with_containers or ():
        found += _given_entries(given)
    if arguments.from_policy:
        found += _entries_of_policy(arguments.from_policy, arguments.container)
    if not found and not arguments.imports:
        raise UsageError("policy fragment: no containers", hint="name some: --with-containers, --from-policy")
    return found


def _given_entries(given: str) -> Sequence[Mapping[str, object]]:
    from sidecar.policy.parse_containers import each, parse_container
    from sidecar.strictjson import load_json

    inline = given.lstrip().startswith(("[", "{"))
    what = "--with-containers" if inline else f"file {given}"
    value = load_json(given if inline else read_file(Path(given)), what=what, max_bytes=4 << 20)
    entries = each(value if isinstance(value, list) else [value], what, parse_container)
    return [entry.to_json() for entry in entries]


def _entries_of_policy(path: Path, names: list[str] | None) -> Sequence[Mapping[str, object]]:
    from sidecar.policy.digest import only_policy
    from sidecar.policy.parse import parse_policy

    policy = parse_policy(only_policy(read_file(path), what=f"file {path}").text, what=f"file {path}")
    chosen = [c for c in policy.containers if names is None or c.name in names or c.id in names]
    if missing := set(names or ()) - {text for c in chosen for text in (c.name, c.id)}:
        raise UsageError(f"file {path}: no container {min(missing)!r} in its policy")
    # Every group brings its own pause container.
    return [c.to_json() for c in chosen if names or c.name != "pause-container"]


# -- import ---------------------------------------------------------------------------------------


def _generate_import(arguments: argparse.Namespace) -> None:
    from sidecar.policy.fragment import verify_fragment
    from sidecar.policy.fragment_text import add_import, build_imports, import_of, parse_imports

    if not arguments.fragment_path:
        raise UsageError("--generate-import: wanted the signed fragment: --fragment-path FILE")
    fragment = verify_fragment(read_file(arguments.fragment_path))
    statement = import_of(
        fragment.content, issuer=fragment.issuer, feed=fragment.feed, minimum_svn=arguments.minimum_svn
    )
    path = arguments.fragments_json
    if path is None:
        sys.stdout.write(build_imports([statement]).decode())
        return
    known = parse_imports(read_file(path), what=f"file {path}") if path.exists() else ()
    _write(path, build_imports(add_import(known, statement)))


# -- verify, inspect ------------------------------------------------------------------------------


def _add_verify(actions: Commands) -> None:
    parser = command(
        actions,
        "verify",
        _verify,
        "Verify a signed fragment as the utility VM does: chain, signature, issuer, feed, svn.",
        "Exit code 14: it would be refused, and the message says why.",
    )
    parser.add_argument("file", type=Path, help="- for standard input")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="that must import it")
    parser.add_argument(
        "-j", "--fragments-json", type=Path, metavar="FILE", help="imports, one of which must fit"
    )
    parser.add_argument("--issuer", metavar="DID", help="wanted issuer")
    parser.add_argument("-f", "--feed", metavar="NAME", help="wanted feed")
    parser.add_argument("--minimum-svn", default="0", metavar="N", help="least svn wanted")
    parser.add_argument("--json", action="store_true")


def _verify(arguments: argparse.Namespace) -> None:
    from sidecar.policy.fragment import verify_fragment

    fragment = verify_fragment(read_file(arguments.file), accept=_accepted(arguments))
    _print_fragment(fragment.content, fragment, as_json=arguments.json)


def _accepted(arguments: argparse.Namespace) -> Sequence[FragmentImport] | None:
    """The imports that one must fit; None when the user names none."""
    from sidecar.policy.digest import only_policy
    from sidecar.policy.fragment_text import parse_imports
    from sidecar.policy.parse import parse_policy
    from sidecar.policy.parse_model import FragmentImport

    if sum(x is not None for x in (arguments.policy, arguments.fragments_json, arguments.issuer)) > 1:
        raise UsageError("fragment verify: wanted one of --policy, --fragments-json and --issuer")
    if arguments.policy:
        found = only_policy(read_file(arguments.policy), what=f"file {arguments.policy}")
        return parse_policy(found.text).fragments
    if arguments.fragments_json:
        return parse_imports(read_file(arguments.fragments_json))
    if bool(arguments.issuer) != bool(arguments.feed):
        raise UsageError("--issuer and --feed: wanted both or none")
    if arguments.issuer:
        return [FragmentImport(arguments.issuer, arguments.feed, arguments.minimum_svn, ())]
    return None


def _add_inspect(actions: Commands) -> None:
    parser = command(
        actions, "inspect", _inspect, "Show a fragment: its text, or the signed form, not verified."
    )
    parser.add_argument("file", type=Path, help="- for standard input")
    parser.add_argument("--json", action="store_true")


def _inspect(arguments: argparse.Namespace) -> None:
    from sidecar.cose import parse_sign1
    from sidecar.policy.parse import parse_fragment_text

    data = read_file(arguments.file)
    signed = data[:1] == b"\xd2"  # CBOR tag 18
    text = parse_sign1(data).payload if signed else data
    if signed:
        print("sidecar: the signature was not checked; see sidecar policy fragment verify", file=sys.stderr)
    _print_fragment(parse_fragment_text(text), None, as_json=arguments.json)


def _print_fragment(content: FragmentText, fragment: Fragment | None, *, as_json: bool) -> None:
    from sidecar.policy.inspect import describe_container
    from sidecar.policy.inspect_text import Paint, shown

    if as_json:
        signature = (
            {
                "issuer": fragment.issuer,
                "feed": fragment.feed,
                "algorithm": fragment.algorithm,
                "chain": [certificate.subject.rfc4514_string() for certificate in fragment.chain],
            }
            if fragment
            else {}
        )
        print(json.dumps(signature | content.to_json(), indent=1))
        return
    if fragment:
        print(
            f"verified: signed by {shown(fragment.chain[0].subject.rfc4514_string())} ({fragment.algorithm})"
        )
        print(f"issuer {shown(fragment.issuer)}\nfeed {shown(fragment.feed)}")
    print(f"namespace {content.namespace}, svn {content.svn}, framework {content.framework_version}")
    for one in content.fragments:
        print(f"accepts {shown(one.feed)}, svn {one.minimum_svn} or higher, of {shown(one.issuer)}")
    for number, container in enumerate(content.containers, 1):
        print("\n" + "\n".join(describe_container(container, Paint(), number)))


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
