"""Encrypted volumes: a LUKS2 image, local or in a blob store, mounted as plain files through FUSE.

`__version__` is the distribution's: pyproject.toml is the one place that says it. It is looked up when asked
for, because a driver that starts has no use for it.

Kind: pure
"""

from __future__ import annotations


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("attested-volumes")
    except PackageNotFoundError:
        return "not installed"
