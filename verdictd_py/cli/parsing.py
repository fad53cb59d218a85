"""What every command line here has in common: one line for a mistake, exit status 2."""

from __future__ import annotations

import argparse
import sys
from typing import Final, NoReturn

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and answers a mistake in one line."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        fail(self.prog, f"{message}; see {self.prog} --help")


def fail(program: str, message: str) -> NoReturn:
    """Ends the program: one line on standard error, exit status 2."""
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(EXIT_USAGE)
