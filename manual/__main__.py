"""`python -m manual`: writes docs/configuration.md, and man pages and completions into `share/`."""

from __future__ import annotations

import argparse
from pathlib import Path

from encfs import __version__
from manual.completion import completions
from manual.configuration import page
from manual.man import man_pages
from manual.variables import ROOT


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(prog="make-docs", description=__doc__)
    parser.add_argument("--share", type=Path, default=ROOT / "share", metavar="DIR", help="(default: share)")
    share = parser.parse_args().share
    (ROOT / "docs" / "configuration.md").write_text(page())
    pages = {f"man/man1/{name}": text for name, text in man_pages(__version__).items()}
    for name, text in (pages | completions()).items():
        path = share / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(f"docs/configuration.md; {len(pages)} man pages and completions in {share}")


if __name__ == "__main__":
    main()
