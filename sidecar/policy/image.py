"""An image as the policy sees it: what it runs by itself, and the root hashes of its layers.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of an image's configuration that a policy is made of.

    Spec: OCI image specification 1.1, config.md; StopSignal and the rest by Docker's names.
    """

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """One image for one platform.

    Args:
        config: what it runs by itself.
        layers: dm-verity root hashes, 64 hex digits each, base first.
        passwd: the image's own /etc/passwd after all layers, public; None where it has none.
        group: its /etc/group likewise.
        digest: of the image's manifest, `sha256:...`; empty where the source has none.
    """

    config: ImageConfig
    layers: tuple[str, ...]
    passwd: bytes | None = None
    group: bytes | None = None
    digest: str = ""
