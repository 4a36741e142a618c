"""What `policy generate` reads beside the description: answers of a person, images, fragments.

Kind: entry
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sidecar.arguments import read_file
from sidecar.errors import UsageError
from sidecar.policy.members import JsonObject

if TYPE_CHECKING:
    from sidecar.policy.containers import ContainerGroup
    from sidecar.policy.generate_sources import Source
    from sidecar.policy.image import ResolvedImage
    from sidecar.policy.images import HashedImage
    from sidecar.policy.parse_model import Container, FragmentImport


class Approver:
    """Answers questions: yes to all of them with -y, else by asking; never without a terminal."""

    def __init__(self, *, always: bool) -> None:
        self._always = always

    def __call__(self, question: str) -> bool:
        from sidecar.policy.inspect_text import shown

        if self._always:
            print(f"sidecar: approved: {shown(question)}", file=sys.stderr)
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(question, hint="there is no terminal to ask on; approve with -y")
        print(f"sidecar: {shown(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def images_of(source: Source, arguments: argparse.Namespace) -> dict[str, ResolvedImage]:
    """Every image of the description, its layers hashed."""
    from sidecar.cli_policy_layers import ProgressBar
    from sidecar.policy.generate_images import Archives, image_places, read_archives, resolve_images
    from sidecar.policy.layers_cache import LayerCache

    archives = read_archives(arguments.tar, read_file) if arguments.tar else Archives()
    folder = arguments.input.parent if arguments.input else Path()
    places = image_places(source.groups, archives, folder)
    bar = ProgressBar() if sys.stderr.isatty() else None
    cache = LayerCache(None) if arguments.no_cache else None

    async def run() -> dict[str, HashedImage]:
        return await resolve_images(places, os.environ, found=_found, cache=cache, progress=bar)

    try:
        hashed = trio.run(run)
    finally:
        if bar is not None:
            bar.clear()
    return {name: image.resolved() for name, image in hashed.items()}


def _found(name: str, image: HashedImage) -> None:
    """Say what is likely to fail later."""
    reference = name.rpartition("/")[2]
    if "@" not in name and reference.partition(":")[2] in ("", "latest"):
        print(
            f"sidecar: warning: image {name}: tag latest: the image may change, the policy will not",
            file=sys.stderr,
        )
    if any(layer.result.implicit_count for layer in image.layers):
        print(
            f"sidecar: warning: image {name}: a layer uses folders that it does not describe\n"
            "sidecar: hint: `sidecar policy layers` names them and says why it matters",
            file=sys.stderr,
        )


def fragments_of(
    arguments: argparse.Namespace, source: Source
) -> tuple[tuple[FragmentImport, ...], tuple[Container, ...]]:
    """The imports of a file, and the containers of their fragments: local, attached to images, or pushed."""
    from sidecar.cli_policy_fragment_registry import collect_fragments
    from sidecar.policy.fragment import verify_fragment
    from sidecar.policy.fragment_text import local_paths, parse_imports

    path: Path | None = arguments.fragments_json
    if path is None:
        return (), ()
    data = read_file(path)
    imports = parse_imports(data, what=f"file {path}")
    local = [
        verify_fragment(read_file(path.parent / one), accept=imports)
        for one in local_paths(data, what=f"file {path}")
    ]
    # Images of archives have no registry to ask.
    names = [] if arguments.tar else [spec.image for group in source.groups for spec in group.containers]
    fragments = collect_fragments(imports, list(dict.fromkeys(names)), local=local)
    return imports, tuple(container for one in fragments for container in one.content.containers)


def with_standalone(source: Source) -> Source:
    """The description with the fragments that it names by a registry's reference turned into imports."""
    from sidecar.cli_policy_fragment_registry import fragments_at
    from sidecar.policy.fragment import verify_fragment
    from sidecar.policy.fragment_text import import_of

    def imports(reference: str) -> list[JsonObject]:
        found = [verify_fragment(stored.data) for stored in fragments_at(reference)]
        if not found:
            raise UsageError(f"standalone fragment {reference!r}: there is none")
        made = [import_of(one.content, issuer=one.issuer, feed=one.feed).to_json() for one in found]
        for one in made:
            print(f"sidecar: imports {one['feed']} of {one['issuer']}", file=sys.stderr)
        return made

    def group(one: ContainerGroup) -> ContainerGroup:
        further = [made for reference in one.standalone for made in imports(reference)]
        return replace(one, imports=one.imports + tuple(further), standalone=())

    if not any(one.standalone for one in source.groups):
        return source
    return replace(source, groups=tuple(group(one) for one in source.groups))
