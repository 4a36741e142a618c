"""`python -m sidecar`.

Kind: entry
"""

from sidecar.cli import main

main()
