"""The cloud in a box: local services that verify for real, for laptops and tests.

Kind: pure
"""
