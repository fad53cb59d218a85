"""`verdictd-py man`: manual pages of both programs, from their parsers."""

from __future__ import annotations

from collections.abc import Sequence

from verdictd_py.cli.parsing import EXIT_OK, Parser

PROGRAMS = ("verdictd-py", "verdict-py")


def run(argv: Sequence[str]) -> int:
    """Print a manual page, and return 0."""
    options = build_parser().parse_args(list(argv))
    from verdictd_py.cli.manpage import page  # noqa: PLC0415  # it loads every parser

    print(page(options.program), end="")
    return EXIT_OK


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        "verdictd-py man",
        "Print a manual page in the format of man. To read or install it:\n\n"
        "  verdictd-py man | man -l -\n"
        "  verdictd-py man verdict-py > /usr/local/share/man/man1/verdict-py.1",
        "exit status: 0 printed, 2 wrong command line",
    )
    parser.add_argument(
        "program",
        nargs="?",
        choices=PROGRAMS,
        default=PROGRAMS[0],
        metavar="PROGRAM",
        help=f"{' or '.join(PROGRAMS)} (%(default)s)",
    )
    return parser
