"""LUKS2: header, JSON area, keyslots and creation, as values and functions without I/O.

Kind: pure
"""
