"""Heads of audit files in a log of the broker, which was stored on another host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from verdictd_py.domain.events import AuditHead

_NAME: Final = AuditHead.spec.name

# Values in a line of text are JSON, whose quotes are escaped: no value of a peer looks like this.
_TEXT: Final = re.compile(
    rf"\d{{4}}-\d\d-\d\dT\S+ [A-Z]+ {re.escape(_NAME)}(?: worker=\d+)? "
    r'file="audit/([^"/]+)" records=(\d+) digest="([0-9a-f]{64})"'
)


@dataclass(frozen=True, slots=True)
class LoggedHead:
    """A head: the file had `records` records, the last of them with `digest`."""

    file: str
    records: int
    digest: str


def heads_in(lines: Iterable[str]) -> Iterator[LoggedHead]:
    """Yield the heads of a log in either of its formats, whatever a log service put before them."""
    for line in lines:
        if _NAME in line:
            head = _of_text(line) or _of_json(line)
            if head is not None:
                yield head


def _of_text(line: str) -> LoggedHead | None:
    match = _TEXT.search(line)
    return None if match is None else LoggedHead(match[1], int(match[2]), match[3])


def _of_json(line: str) -> LoggedHead | None:
    try:
        members = json.loads(line[line.index("{") :])
        if members["event"] != _NAME:
            return None
        name = str(members["file"]).rpartition("/")[2]
        return LoggedHead(name, int(members["records"]), str(members["digest"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
