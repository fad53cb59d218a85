"""Entry points of both programs. They load little, so that a shell completes a word quickly."""

from __future__ import annotations

import sys


def verdict_py() -> int:
    """`verdict-py`: complete a word for a shell, or run `cli.verdict`."""
    if sys.argv[1:2] == ["complete"]:
        return _complete("verdict-py")
    from verdictd_py.cli.verdict import main  # noqa: PLC0415  # it loads gRPC

    return main()


def verdictd_py() -> int:
    """`verdictd-py`: complete a word for a shell, or run `cli.main`."""
    if sys.argv[1:2] == ["complete"]:
        return _complete("verdictd-py")
    from verdictd_py.cli.main import main  # noqa: PLC0415  # a completion does not need it

    return main()


def _complete(program: str) -> int:
    from verdictd_py.cli.completion import shells  # noqa: PLC0415  # for completion only

    return shells.main(program, sys.argv[2:])
