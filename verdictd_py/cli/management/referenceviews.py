"""Output about reference data and its named sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from verdictd_py.cli.management import data
from verdictd_py.cli.output.difference import Difference, Values
from verdictd_py.cli.output.layout import Block, Column, Group, Kind, Table, Text
from verdictd_py.cli.output.result import CommandOutput

ReferenceSet = Any
"""A message of the package `verdictd.v1`; messages are made at run time."""

_SETS: Final = (
    "set",
    "state",
    Column("values", Kind.SENTENCE),
    Column("expires", optional=True),
    Column("added by", wide=True),
    Column("at", wide=True),
    Column("from", wide=True),
)


def sets(listed: Sequence[ReferenceSet]) -> CommandOutput:
    """Return named sets, with their origin and whether they are in force."""
    return CommandOutput(
        "reference-set-list",
        [data.message(item) for item in listed],
        Table(_SETS, map(_row, listed)),
        names=tuple(item.name for item in listed),
    )


def one_set(item: ReferenceSet) -> CommandOutput:
    """Return a named set that was added or retired."""
    table = Table(_SETS, [_row(item)])
    return CommandOutput("reference-set", data.message(item), table, names=(item.name,))


def _row(item: ReferenceSet) -> tuple[str, ...]:
    return (
        item.name,
        item.state,
        ", ".join(f"{value.field} ({len(value.values)})" for value in item.values),
        item.expires_at or "never",
        item.added_by,
        item.added_at,
        item.appraisal or "by hand",
    )


def difference(one: ReferenceSet, other: ReferenceSet) -> CommandOutput:
    """Return the lists in which two sets differ; status 1 if there are any."""
    left, right = (
        {value.field: set(value.values) for value in item.values} for item in (one, other)
    )
    fields = [
        {"field": name, "first": sorted(mine), "second": sorted(theirs)}
        for name in sorted(left | right)
        if (mine := left.get(name, set())) != (theirs := right.get(name, set()))
    ]
    parts: list[Block | str] = []
    for field in fields:
        parts += [] if not parts else [""]
        parts.append(_differing(one.name, other.name, field))
    return CommandOutput(
        "reference-set-difference",
        {"first": one.name, "second": other.name, "fields": fields},
        Group(*parts) if fields else Text("they are the same"),
        status=1 if fields else 0,
        names=tuple(str(field["field"]) for field in fields),
    )


def _differing(one: str, other: str, field: dict[str, Any]) -> Block:
    """Return two values below each other, or all values of both sets if there are several."""
    name, mine, theirs = field["field"], field["first"], field["second"]
    if len(mine) == 1 and len(theirs) >= 1:
        return Difference(name, (one, other), mine[0], theirs)
    if len(theirs) == 1 and mine:
        return Difference(name, (other, one), theirs[0], mine)
    rows = [(one, value) for value in mine or ["-"]] + [(other, value) for value in theirs or ["-"]]
    return Values(name, rows)


def reference(answer: Any, *, stored: bool) -> CommandOutput:  # noqa: ANN401  # as above
    """Return reference data as it decides, or as it is stored, with remarks on its problems."""
    decides = "" if stored else answer.deciding
    members = {
        "name": answer.name,
        "values": _json(decides or answer.content),
        "stored": _json(answer.content),
        "unpinned": list(answer.unpinned),
        "unread": list(answer.unread),
        "problem": answer.problem,
    }
    remarks = []
    if decides and _json(decides) != _json(answer.content):
        remarks.append(
            f"these values decide: {answer.name} with its named sets (verdict-py reference sets); "
            "--stored shows the file"
        )
    if answer.problem:
        remarks.append(f"PROBLEM: no guest is judged: {answer.problem}")
    if answer.unpinned:
        remarks.append(f"UNPINNED: any value is accepted for {', '.join(answer.unpinned)}")
    if answer.unread:
        remarks.append(f"UNREAD: the policy in force does not read {', '.join(answer.unread)}")
    text = (decides or answer.content).rstrip() + "\n"
    return CommandOutput(
        "reference",
        members,
        _values(members["values"]),
        raw=text.encode(),
        remarks=tuple(remarks),
        names=(answer.name,),
    )


def _values(values: object) -> Block | None:
    """Return a table of reference values for a terminal; None if they are not an object."""
    if not isinstance(values, dict):
        return None
    rows = [(name, [_shown(item) for item in _listed(value)]) for name, value in values.items()]
    return Table(("field", Column("values", Kind.VALUE)), rows)


def _listed(value: object) -> list[object]:
    if isinstance(value, list):
        return value or ["(none)"]
    return [value]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
