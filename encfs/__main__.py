"""`python -m encfs`.

Kind: entry
"""

from encfs.cli import main

main()
