"""Fragments in a registry: `policy fragment attach`, `push`, `list` and `pull`, and what `fragment` itself
needs.

Rules: nothing is attached or pushed that does not verify here, and nothing that was pulled is written
before it does.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from sidecar.arguments import Commands, command, read_file
from sidecar.errors import ServiceError, SidecarError, UsageError

if TYPE_CHECKING:
    from sidecar.policy.fragment import Fragment
    from sidecar.policy.images_names import RegistryName
    from sidecar.policy.parse_model import FragmentImport
    from sidecar.policy.referrers_registry import StoredFragment
    from sidecar.policy.registry import Registry

T = TypeVar("T")


def add_actions(actions: Commands) -> None:
    """Declare the actions."""
    attach = command(actions, "attach", _attach, "Attach a signed fragment to an image in a registry.")
    attach.add_argument("file", type=Path, help="the signed fragment")
    attach.add_argument("image", metavar="IMAGE", help="of several platforms: to its linux/amd64 one")
    push = command(
        actions,
        "push",
        _push,
        "Push a signed fragment by itself.",
        "Without a TAG under two: its svn, and latest.",
    )
    push.add_argument("file", type=Path, help="the signed fragment")
    push.add_argument("target", nargs="?", metavar="NAME[:TAG]", help="default: its feed")
    listed = command(actions, "list", _list, "List the fragments attached to an image, each verified.")
    listed.add_argument("image", metavar="IMAGE")
    listed.add_argument("--json", action="store_true")
    pull = command(
        actions,
        "pull",
        _pull,
        "Pull fragments, verify them, and write them as NAMESPACE.rego.cose.",
        "Those attached to an image, or the one that NAME:TAG itself is.",
    )
    pull.add_argument("name", metavar="IMAGE|NAME:TAG")
    pull.add_argument("--directory", type=Path, default=Path(), help="default: this one")
    pull.add_argument("-j", "--fragments-json", type=Path, metavar="FILE", help="imports that must fit")


def attach_to_image(data: bytes, image: str, *, title: str) -> str:
    """Attach a fragment, which the caller has verified; the digest of its manifest."""
    from sidecar.policy.referrers_registry import attach_fragment, subject_of

    async def act(registry: Registry) -> str:
        return await attach_fragment(registry, data, title=title, subject=await subject_of(registry))

    return _in_registry(registry_name(image), act)


def push_alone(data: bytes, target: str, *, svn: str, title: str) -> str:
    """Push a fragment, which the caller has verified, under the target's tag, or under its svn and latest."""
    from sidecar.policy.referrers_registry import push_fragment

    name = registry_name(target)
    if name.digest:
        raise UsageError(f"{target}: wanted a tag to push to, not a digest")
    tags = (name.tag,) if name.tag else (svn, "latest")
    return _in_registry(name, lambda registry: push_fragment(registry, data, title=title, tags=tags))


def fragments_at(name: str) -> tuple[StoredFragment, ...]:
    """Not verified: those attached to an image, else the one that the name itself names."""
    from sidecar.policy.referrers_registry import attached_fragments, fetch_fragment, subject_of

    async def act(registry: Registry) -> tuple[StoredFragment, ...]:
        try:
            attached = await attached_fragments(registry, (await subject_of(registry)).digest)
        except SidecarError as no_image:
            # A fragment by itself is no image; what it is not either is told as what it was taken for first.
            try:
                return (await fetch_fragment(registry),)
            except SidecarError:
                raise no_image from None
        return attached

    return _in_registry(registry_name(name), act)


def collect_fragments(
    imports: Sequence[FragmentImport], images: Sequence[str], *, local: Sequence[Fragment] = ()
) -> tuple[Fragment, ...]:
    """The fragments that imports accept: local ones, those attached to images, those pushed to their feeds.

    What is attached and not imported is left alone. An import whose fragment is nowhere to be had is told on
    standard error: then the policy keeps the containers, which is larger and right all the same.

    Raises:
        UsageError: two fragments of one namespace, of which the utility VM would load one.
    """
    from sidecar.policy.containers_defaults import INFRASTRUCTURE_FEED

    accept, found = list(imports), list(local)
    waiting = [data for image in images for data in _data_at(image)]
    asked: set[str] = set()
    number = 0
    # Fragments may import further ones, so the list grows while it is read.
    while number < len(accept):
        one = accept[number]
        number += 1
        found += _fitting(waiting, one, found)
        if one.feed == INFRASTRUCTURE_FEED or one.feed in asked:
            continue
        asked.add(one.feed)
        if not any((f.issuer, f.feed) == (one.issuer, one.feed) for f in found):
            found += _fitting(_data_at(one.feed), one, found)
        nested = [n for f in found for n in f.content.fragments if "fragments" in one.includes]
        accept += [n for n in dict.fromkeys(nested) if n not in accept]
    names = [fragment.content.namespace for fragment in found]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"fragments: two of namespace {min(doubled)!r}", hint="import only one of them")
    return tuple(found)


def _fitting(waiting: Sequence[bytes], one: FragmentImport, found: Sequence[Fragment]) -> list[Fragment]:
    """Those that this import accepts and that are not there yet; of one feed the newest."""
    from sidecar.errors import EndorsementRejected
    from sidecar.policy.fragment import verify_fragment
    from sidecar.policy.fragment_text import svn_at_least

    new: dict[tuple[str, str], Fragment] = {}
    for data in waiting:
        try:
            fragment = verify_fragment(data, accept=[one])
        except EndorsementRejected:
            # Another issuer's, another feed's, too old: not what is imported here.
            continue
        key = (fragment.feed, fragment.content.namespace)
        if any((f.feed, f.content.namespace) == key for f in found):
            continue
        if key not in new or not svn_at_least(new[key].content.svn, fragment.content.svn):
            new[key] = fragment
    return list(new.values())


def _data_at(name: str) -> list[bytes]:
    """The fragments at a name, not verified; none, and a warning, where none can be had."""
    try:
        return [stored.data for stored in fragments_at(name)]
    except (UsageError, ServiceError) as exc:
        print(f"sidecar: warning: no fragments of {name}: {exc}", file=sys.stderr)
        return []


def registry_name(text: str) -> RegistryName:
    """An image's or a feed's name as a place in a registry; UsageError for a file."""
    from sidecar.policy.images_names import RegistryName, parse_name

    name = parse_name(text)
    if not isinstance(name, RegistryName):
        raise UsageError(f"{text}: wanted a name in a registry, such as HOST/PATH:TAG")
    return name


def feed_of(image: str) -> str:
    """The feed of an image: its name without tag and digest, as it is written."""
    registry_name(image)
    bare = image.partition("@")[0].removeprefix("docker://")
    head, slash, last = bare.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def _in_registry(name: RegistryName, act: Callable[[Registry], Awaitable[T]]) -> T:
    from sidecar.policy.registry import open_registry

    async def run() -> T:
        async with open_registry(name, os.environ) as registry:
            return await act(registry)

    return trio.run(run)


# -- actions --------------------------------------------------------------------------------------


def _attach(arguments: argparse.Namespace) -> None:
    data = read_file(arguments.file)
    _verified(data)
    print(attach_to_image(data, arguments.image, title=arguments.file.name))


def _push(arguments: argparse.Namespace) -> None:
    data = read_file(arguments.file)
    fragment = _verified(data)
    target = arguments.target or fragment.feed
    print(push_alone(data, target, svn=fragment.content.svn, title=arguments.file.name))


def _list(arguments: argparse.Namespace) -> None:
    found = [(stored, _verified(stored.data)) for stored in fragments_at(arguments.image)]
    if arguments.json:
        print(json.dumps([_summary(stored.digest, fragment) for stored, fragment in found], indent=1))
        return
    for stored, fragment in found:
        content = fragment.content
        print(f"{stored.digest}  {content.namespace}  svn {content.svn}  {fragment.feed}  {fragment.issuer}")
    if not found:
        print("sidecar: no fragments are attached", file=sys.stderr)


def _summary(digest: str, fragment: Fragment) -> dict[str, object]:
    return {
        "digest": digest,
        "issuer": fragment.issuer,
        "feed": fragment.feed,
        "namespace": fragment.content.namespace,
        "svn": fragment.content.svn,
    }


def _pull(arguments: argparse.Namespace) -> None:
    from sidecar.policy.fragment import verify_fragment
    from sidecar.policy.fragment_text import parse_imports

    accept: tuple[FragmentImport, ...] | None = None
    if arguments.fragments_json:
        accept = parse_imports(read_file(arguments.fragments_json))
    found = [(stored, verify_fragment(stored.data, accept=accept)) for stored in fragments_at(arguments.name)]
    if not found:
        raise UsageError(f"{arguments.name}: no fragments are attached")
    if len({fragment.content.namespace for _, fragment in found}) != len(found):
        raise UsageError(f"{arguments.name}: two fragments of one namespace", hint="pull one by its digest")
    for stored, fragment in found:
        path = arguments.directory / f"{fragment.content.namespace}.rego.cose"
        try:
            path.write_bytes(stored.data)
        except OSError as exc:
            raise UsageError(f"file {path}: {exc.strerror}") from exc
        print(path)


def _verified(data: bytes) -> Fragment:
    from sidecar.policy.fragment import verify_fragment

    return verify_fragment(data)
