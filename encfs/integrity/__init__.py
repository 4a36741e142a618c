"""LUKS2 with dm-integrity: every block has a tag, and a torn write never costs a block.

`layout` and `journal` are the kernel's format, `encfs.digests` has dm-crypt's tag, `encfs.block.integrity` is
the layer that uses them.

Kind: pure
"""
