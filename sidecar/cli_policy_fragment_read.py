"""Reading fragments: `policy fragment verify` and `inspect`.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.arguments import Commands, command, read_file
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.policy.fragment import Fragment
    from sidecar.policy.parse_model import FragmentImport, FragmentText


def add_actions(actions: Commands) -> None:
    """Declare the actions."""
    _add_verify(actions)
    _add_inspect(actions)


# -- verify --------------------------------------------------------------------------------------


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
    parser.add_argument("--group", metavar="NAME", help="its container group, where it has several")
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
        what = f"file {arguments.policy}"
        found = only_policy(read_file(arguments.policy), what=what, group=arguments.group)
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
