"""Beginnings of names: the one name that a prefix stands for, or the candidates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from verdictd_py.encoding import quoted
from verdictd_py.errors import RequestError

MAX_CANDIDATES: Final = 8
"""Maximum number of candidates that an error lists."""


def only_match(prefix: str, matching: Iterable[str], what: str) -> str:
    """Return the name that is the prefix, otherwise the only one of the matching names.

    Args:
        matching: names that begin with the prefix; at least one.
        what: plural of the objects, for the error.

    Raises:
        RequestError: there are several; the message lists the first ones in one line.
    """
    names = sorted(set(matching))
    if prefix in names:
        return prefix
    if len(names) == 1:
        return names[0]
    listed = ", ".join(names[:MAX_CANDIDATES])
    more = ", ..." if len(names) > MAX_CANDIDATES else ""
    raise RequestError(
        f"several {what} begin with {quoted(prefix)}: {listed}{more}; write one more fully"
    )
