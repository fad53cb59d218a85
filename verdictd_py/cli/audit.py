"""`verdictd-py audit verify FILE...`: detects changes of an audit trail."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.events.chain import verify


def run(argv: Sequence[str]) -> int:
    """Verify audit files; return 0 if no file was changed, else 1.

    Raises:
        ConfigError: a file cannot be read.
    """
    options = build_parser().parse_args(list(argv))
    status = EXIT_OK
    for path in options.files:
        try:
            with path.open("rb") as lines:
                count, digest = verify(lines)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}; check its name") from error
        except StorageError as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = EXIT_REFUSED
        else:
            print(f"{path}: {count} records, digest {digest}")
    return status


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        "verdictd-py audit",
        "Verify the chain of digests in audit files. To detect a file that is cut off at its end,\n"
        "compare the count and the digest printed here with audit.closed in the log.",
        "exit status: 0 unchanged, 1 changed, 2 cannot be read",
    )
    parser.add_argument("action", choices=["verify"])
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path)
    return parser
