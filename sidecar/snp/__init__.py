"""SEV-SNP attestation: reports, certificates, verification, and where reports come from.

Kind: pure
"""
