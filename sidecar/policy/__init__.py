"""Security policies of confidential containers: layer hashes, policy text, fragments.

Kind: pure
"""
