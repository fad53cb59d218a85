"""Forms of audit records for people and other programs: text, JSON lines, CSV and CEF.

Peers and callers choose many values: no value may start a line, a column, a formula of a
spreadsheet or a command of a terminal.

Sources: RFC 4180 (CSV); ArcSight "Common Event Format", revision 25 (CEF).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final

from verdictd_py import __version__
from verdictd_py.domain.events import CATALOGUE
from verdictd_py.domain.eventtypes import Level
from verdictd_py.events.reading import REFUSED, AuditRecord

COLUMNS: Final = (
    *("time", "event", "result", "guest", "tee", "code", "peer", "caller", "object", "reasons"),
    *("fields", "file", "number", "digest"),
)
"""Columns of CSV."""

_FORMULA: Final = frozenset("=+-@\t\r\n|")
"""First characters with which a spreadsheet begins a formula, or a command in old ones."""

_ENCODE: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_WARNINGS: Final = frozenset(
    e.spec.name for e in CATALOGUE if e.spec.level in Level.from_level("warning")
)
_TITLES: Final = {e.spec.name: (e.__doc__ or "").strip().split("\n")[0] for e in CATALOGUE}
_CEF_NAMES: Final = {"caller": "suser", "object": "fname", "code": "reason"}


def as_text(records: Iterable[AuditRecord]) -> Iterator[str]:
    """Yield one line for each record, in the form of the log."""
    for record in records:
        values = (
            f"{escaped(name)}={json.dumps(value)}"
            for name, value in record.fields.items()
            if value is not None
        )
        yield " ".join((escaped(record.time), escaped(record.event), *values)) + "\n"


def as_json_lines(records: Iterable[AuditRecord]) -> Iterator[str]:
    """Yield the records as they are stored, each with the name of its file."""
    for record in records:
        yield _ENCODE({**record.members, "file": record.file}) + "\n"


def as_csv(records: Iterable[AuditRecord]) -> Iterator[str]:
    """Yield a line with the names of the columns, and one for each record."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for record in records:
        row = _row(record)
        writer.writerow([_cell(row[name]) for name in COLUMNS])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()  # the names alone, if there are no records


def as_cef(records: Iterable[AuditRecord]) -> Iterator[str]:
    """Yield one line of CEF for each record."""
    for record in records:
        severity = 6 if record.event in _WARNINGS or record.result == REFUSED else 3
        header = ("verdictd-py", "verdictd-py", __version__, record.event)
        title = _TITLES.get(record.event, record.event)
        head = "|".join(_cef_header(part) for part in (*header, title))
        row = _row(record)
        extension = {"rt": _milliseconds(row["time"]), "outcome": row["result"]}
        extension |= _source(row["peer"])
        extension |= {_CEF_NAMES[name]: row[name] for name in _CEF_NAMES if row[name]}
        if row["guest"]:
            extension |= {"cs1Label": "guest", "cs1": row["guest"]}
        extension |= {"cs2Label": "digest", "cs2": row["digest"], "msg": row["fields"]}
        pairs = " ".join(f"{name}={_cef_value(value)}" for name, value in extension.items())
        yield f"CEF:0|{head}|{severity}|{pairs}\n"


FORMATS: Final[dict[str, Callable[[Iterable[AuditRecord]], Iterator[str]]]] = {
    "csv": as_csv,
    "jsonl": as_json_lines,
    "cef": as_cef,
    "text": as_text,
}
"""Forms by name."""


def escaped(text: str) -> str:
    """Escape every character that is not printable ASCII, as JSON does."""
    return (
        json.dumps(text)[1:-1].replace('\\"', '"').replace("\\\\", "\\").replace("\x7f", "\\u007f")
    )


def _row(record: AuditRecord) -> dict[str, str]:
    fields = record.fields
    reasons = fields.get("reasons")
    texts: list[Any] = reasons if isinstance(reasons, list) else [fields.get("reason") or ""]
    return {
        "time": record.time,
        "event": record.event,
        "result": record.result,
        "guest": str(fields.get("appraisal") or fields.get("guest") or ""),
        "tee": str(fields.get("tee") or ""),
        "code": str(fields.get("code") or ""),
        "peer": str(fields.get("peer") or ""),
        "caller": str(fields.get("caller") or ""),
        "object": record.object,
        "reasons": "; ".join(str(text) for text in texts),
        "fields": _ENCODE(fields),
        "file": record.file,
        "number": str(record.number),
        "digest": str(record.members.get("digest") or ""),
    }


def _cell(text: str) -> str:
    """Return the text of a cell, which no spreadsheet takes for a formula."""
    text = escaped(text)
    stripped = text.lstrip(" ")
    return f"'{text}" if stripped[:1] in _FORMULA and stripped else text


def _milliseconds(time: str) -> str:
    """Return a time as CEF has it: milliseconds since 1970; empty if it is none."""
    try:
        return str(int(datetime.fromisoformat(time).timestamp() * 1000))
    except ValueError:
        return ""


def _source(peer: str) -> dict[str, str]:
    """Return address and port of a peer; nothing for another peer, such as a unix socket."""
    host, _, port = peer.rpartition(":")
    try:
        return {"src": str(ip_address(host.strip("[]"))), "spt": str(int(port))}
    except ValueError:
        return {}


def _cef_header(text: str) -> str:
    return escaped(text).replace("\\", "\\\\").replace("|", "\\|")


def _cef_value(text: str) -> str:
    return escaped(text).replace("\\", "\\\\").replace("=", "\\=")
