"""Measures encfs and its peers. Needs root; not part of the installed package."""
