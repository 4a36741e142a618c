"""`sidecar policy layers`: the root hashes of an image's layers, as a policy lists them.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import trio

from sidecar.arguments import Commands, command
from sidecar.policy.images import HashedImage, HashedLayer, hash_image
from sidecar.policy.layers_cache import LayerCache
from sidecar.policy.oci import parse_platform

_BAR = 30
_REDRAW_SECONDS = 0.1


def add_commands(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "layers",
        _layers,
        "Print the dm-verity root hashes of an image's layers, base layer first.",
        "IMAGE is a name in a registry, or one of\n"
        "  ./FILE or ./FOLDER               a docker or OCI archive, or an OCI layout\n"
        "  docker-archive:FILE[:NAME]  oci-archive:FILE[:NAME]  oci:FOLDER[:NAME]\n"
        "  containers-storage:[[DRIVER@]ROOT]NAME     an image of buildah or podman\n"
        "A registry is asked with the logins of docker and podman, or as a managed identity.\n"
        "Results are kept by the layer's digest under XDG_CACHE_HOME.",
    )
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("--platform", default="linux/amd64", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="digests, sizes and warnings as well")
    parser.add_argument("--no-cache", action="store_true", help="hash everything again and keep nothing")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar, even on a terminal")


def _layers(arguments: argparse.Namespace) -> None:
    platform = parse_platform(arguments.platform)
    cache = LayerCache(None) if arguments.no_cache else None
    bar = ProgressBar() if sys.stderr.isatty() and not arguments.no_progress else None

    async def run() -> HashedImage:
        return await hash_image(
            arguments.image, environ=os.environ, platform=platform, cache=cache, progress=bar
        )

    try:
        hashed = trio.run(run)
    finally:
        if bar is not None:
            bar.clear()
    for number, layer in enumerate(hashed.layers):
        _warn(number, layer)
    if arguments.json:
        print(json.dumps(_as_json(hashed), indent=1))
    else:
        for layer in hashed.layers:
            print(layer.result.root_hash)


def _warn(number: int, layer: HashedLayer) -> None:
    count = layer.result.implicit_count
    if count:
        parents = ", ".join(layer.result.implicit_parents[:4])
        print(
            f"sidecar: warning: layer {number}: {count} folders are used and not described ({parents}"
            f"{', ...' if count > 4 else ''})\n"
            'sidecar: hint: hosts with an older converter give it another hash ("deviceHash not found"); '
            "rebuild the layer with its folders in it",
            file=sys.stderr,
        )


def _as_json(hashed: HashedImage) -> dict[str, object]:
    return {
        "image": hashed.image.name,
        "digest": hashed.image.digest or None,
        "platform": str(hashed.image.config.platform),
        "layers": [
            {
                "root_hash": layer.result.root_hash,
                "digest": layer.digest,
                "diff_id": layer.diff_id,
                "image_size": layer.result.image_size,
                "implicit_parents": list(layer.result.implicit_parents),
                "implicit_parents_count": layer.result.implicit_count,
                "cached": layer.cached,
            }
            for layer in hashed.layers
        ],
    }


class ProgressBar:
    """One line on standard error, redrawn at most ten times a second."""

    def __init__(self) -> None:
        self._layer = -1
        self._done = 0
        self._drawn = 0.0
        self._width = 0

    def __call__(self, number: int, total: int, size: int | None, count: int) -> None:
        """So many more bytes of a layer have been read."""
        if number != self._layer:
            self._layer, self._done = number, 0
        self._done += count
        now = time.monotonic()
        if now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        text = f"layer {number + 1}/{total} {progress_text(self._done, size)}"
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()


def progress_text(done: int, size: int | None) -> str:
    """A bar and a figure, or the figure alone where the size is not known."""
    if not size:
        return f"{done / (1 << 20):.0f} MiB"
    share = min(1.0, done / size)
    filled = round(_BAR * share)
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {100 * share:3.0f}% of {size / (1 << 20):.0f} MiB"
