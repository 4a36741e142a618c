"""Encrypted volumes: a LUKS2 image, local or in a blob store, mounted as plain files through FUSE.

Kind: pure
"""

__version__ = "0.1.0"
