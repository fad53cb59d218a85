"""`verdict-py`: manages a broker through its client API."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from verdictd_py import __version__
from verdictd_py.cli.parsing import Parser

PROGRAM: Final = "verdict-py"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; a mistake, and having nothing to do, end with exit status 2."""
    parser = Parser(
        PROGRAM,
        "Manages a verdictd-py broker through its client API.\n"
        "This version has no commands yet: they come with the management services.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.parse_args(sys.argv[1:] if argv is None else list(argv))
    parser.error("this version has no commands yet")


if __name__ == "__main__":
    raise SystemExit(main())
