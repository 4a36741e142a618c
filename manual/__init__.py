"""Documents made from the code: settings reference, man pages, shell completion; `scripts/make-docs` runs it.

Kept out of the two products: it reads both, and neither needs it to run.
"""
