"""Attestation and keys: SNP report to attestation token to released key.

Kind: pure
"""

__version__ = "0.1.0"
