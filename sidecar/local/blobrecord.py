"""One blob of the local blob service without its content.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.local.bloblease import Lease

PAGE_BLOB, BLOCK_BLOB = "PageBlob", "BlockBlob"


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """One blob without its content.

    Attributes:
        kind: `PageBlob` or `BlockBlob`; empty for a block blob that has only uncommitted blocks.
        etag: grows with every change.
        modified: Unix seconds.
        file: name of its content.
        blocks: committed ones of a block blob, identifier and length.
    """

    container: str
    name: str
    kind: str
    size: int
    etag: int
    modified: float
    created: float
    file: str
    sequence: int = 0
    content_type: str = "application/octet-stream"
    content_md5: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    blocks: tuple[tuple[str, int], ...] = ()
    lease: Lease = Lease()  # noqa: RUF009 - frozen
