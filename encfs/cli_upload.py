"""The command that makes blobs: upload.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from encfs.arguments import Commands, add_store_options, blob_of, command, run_trio
from encfs.errors import UsageError


def add_commands(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "upload",
        _upload,
        "Copy an image into a blob: in parallel, without zeros, verified; run again, it goes on.",
        "A page blob can be mounted for writing, a block blob only read; both by `encfs mount URL`.\n\n"
        "example: encfs upload data.img https://ACCOUNT.blob.core.windows.net/CONTAINER/data.img --identity",
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("url", metavar="URL", help="https://ACCOUNT.../CONTAINER/BLOB")
    parser.add_argument("--type", choices=("page", "block"), default="page", help="of the blob")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--raw", action="store_true", help="whatever the file holds, not only LUKS2 images")
    parser.add_argument("--parallel", type=int, default=8, metavar="N", help="requests at once, 1 to 32")
    parser.add_argument("--quiet", action="store_true", help="no progress line on a terminal")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_store_options(parser, writes=False)


def _upload(arguments: argparse.Namespace) -> None:
    from encfs.block.blobcodec import BlobKind
    from encfs.block.bloburl import is_blob_url
    from encfs.progress import in_units
    from encfs.upload import UploadOptions, upload

    if not is_blob_url(arguments.url):
        raise UsageError(f"URL {arguments.url!r}: not an address", hint="it starts with https://")
    if not 1 <= arguments.parallel <= 32:
        raise UsageError(f"--parallel {arguments.parallel}: wanted 1 to 32")
    access = blob_of(arguments, arguments.url)
    options = UploadOptions(
        kind=BlobKind.PAGE if arguments.type == "page" else BlobKind.BLOCK,
        force=arguments.force,
        raw=arguments.raw,
        parallel=arguments.parallel,
        progress=not (arguments.quiet or arguments.json),
    )
    done = run_trio(upload, arguments.image, access, options)
    if arguments.json:
        print(json.dumps(asdict(done)))
    else:
        kept = f", {in_units(done.resumed)}B were there" if done.resumed else ""
        print(f"{done.url}: {in_units(done.sent)}B sent{kept}, {in_units(done.zero)}B of zeros not, verified")
