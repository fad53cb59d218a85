"""How `verdict-py` shows what the broker said: tables for people, JSON for programs."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from verdictd_py.cli.parsing import printable
from verdictd_py.errors import ConfigError

_WIDE: Final = 400
"""Columns where no terminal is: a line of a table stays one line for grep."""

_UNNAMED: Final = "policy"
"""Rule of a reason that names no claim: its text says more than its values."""

_VERDICTS: Final = {1: "refused", 2: "refused, not verified", 3: "accepted"}


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer in both forms.

    Attributes:
        data: for `--json`.
        text: for people; None where `data` is a text itself.
        status: of the program.
    """

    data: object
    text: RenderableType | None = None
    status: int = 0
    raw: bytes | None = field(default=None, repr=False)
    """Content to be written as it is, where no JSON was asked for, and no terminal reads it."""
    remarks: tuple[str, ...] = ()
    """About the data, a line each on standard error."""

    def as_data(self) -> dict[str, Any]:
        """The data, where it is an object."""
        return self.data if isinstance(self.data, dict) else {}

    def print(self, *, as_json: bool, on_error: bool = False) -> None:
        """To standard output, or standard error where that must stay JSON.

        Raises:
            ConfigError: see `write`.
        """
        stream = sys.stderr if on_error else sys.stdout
        if as_json:
            write(stream, json.dumps(self.data, indent=2, ensure_ascii=True) + "\n")
        elif self.raw is not None and stream.isatty():
            write(stream, printable(self.raw.decode(errors="replace")))
        elif self.raw is not None:
            write(stream, self.raw)
        else:
            write(stream, self._drawn(terminal=stream.isatty()))

    def remark(self) -> None:
        """Write the remarks to standard error."""
        for line in self.remarks:
            write(sys.stderr, printable(line) + "\n")

    def _drawn(self, *, terminal: bool) -> str:
        """For people, without the blanks that rich pads the last column with."""
        drawn = io.StringIO()
        width = None if terminal else _WIDE
        console = Console(file=drawn, width=width, force_terminal=terminal, highlight=False)
        console.print(cell(str(self.data)) if self.text is None else self.text)
        return "".join(line.rstrip() + "\n" for line in drawn.getvalue().splitlines())


def write(stream: TextIO, content: str | bytes) -> None:
    """Writes all of it now.

    Raises:
        BrokenPipeError: nobody reads on.
        ConfigError: it cannot be written.
    """
    try:
        if isinstance(content, bytes):
            stream.buffer.write(content)
        else:
            stream.write(content)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = None  # what is left in it would be tried again at exit
        raise ConfigError(
            f"cannot write the answer: {error.strerror}; the broker has done what was asked"
        ) from error


def content(name: str, value: bytes) -> Shown:
    """Bytes as they are; base64 in JSON, for they may be anything."""
    return Shown({"name": name, "content": base64.b64encode(value).decode()}, raw=value)


def done(text: str, **data: object) -> Shown:
    """What was done, in a sentence."""
    return Shown({"done": True, **data}, cell(text))


def message(answer: Message) -> dict[str, Any]:
    """A message as JSON with the names of the `.proto` file, defaults included."""
    return MessageToDict(
        answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def cell(value: object) -> Text:
    """Text from the broker, which may repeat a guest's: no control character reaches a terminal."""
    return Text(printable(str(value)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table with whole values: what does not fit is folded, never cut."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    return made


def keys(found: Sequence[Any]) -> Shown:
    rows = [(key.name, key.changed_at, key.size, key.problem) for key in found]
    data = [message(key) for key in found]
    return Shown(data, table(("key", "changed", "bytes", "problem"), rows))


def resources(found: Sequence[Any]) -> Shown:
    rows = [(each.path, each.file, each.changed_at, each.size, each.problem) for each in found]
    data = [message(each) for each in found]
    return Shown(data, table(("resource", "file", "changed", "bytes", "problem"), rows))


def guests(found: Sequence[Any]) -> Shown:
    rows = [
        (each.id, each.at, each.peer, each.tee, each.code, each.tcb_status, _rules(each))
        for each in found
    ]
    columns = ("id", "time", "peer", "tee", "code", "TCB", "rules that refused")
    return Shown([guest_data(each) for each in found], table(columns, rows))


def explained(guest: Any) -> Shown:  # noqa: ANN401  # messages are made at run time
    """One guest: who it was, and what was measured beside what was expected."""
    compared = [each for each in guest.reasons if each.measured or each.expected]
    rows = [(each.rule, each.measured, each.expected) for each in compared]
    parts: list[RenderableType] = [about_guest(guest)]
    if rows:
        parts += ["", table(("rule", "measured", "expected"), rows)]
    unnamed = (each for each in guest.reasons if not each.measured or each.rule == _UNNAMED)
    parts += ["", *(cell(each.text) for each in unnamed)]
    if guest.not_pinnable:
        parts.append(cell(f"cannot be pinned: {guest.not_pinnable}"))
    else:
        parts.append(cell(f"trust it? verdict-py reference pin --from {guest.id}"))
    return Shown(guest_data(guest), Group(*parts))


def about_guest(guest: Any) -> Table:  # noqa: ANN401  # as above
    """Time, peer, platform: what a person looks at before trusting it."""
    facts = (
        ("guest", guest.id),
        ("verdict", f"{_VERDICTS.get(guest.verdict, 'unknown')} ({guest.code})"),
        ("time", guest.at),
        ("peer", guest.peer),
        ("evidence", f"{guest.tee or 'none that could be read'} {guest.form}".rstrip()),
        ("FMSPC", guest.fmspc or "-"),
        ("TCB", guest.tcb_status or "-"),
        ("advisories", ", ".join(guest.advisory_ids) or "-"),
    )
    return facts_table(facts)


def guest_data(guest: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """A guest as JSON; its claims as the object that they are."""
    data = message(guest)
    data["verdict"] = str(data["verdict"]).removeprefix("VERDICT_").lower()
    data["claims"] = json.loads(guest.claims) if guest.claims else {}
    return data


def pinned(found: Any) -> Shown:  # noqa: ANN401  # as above
    """What pinning changes, list by list."""
    rows = [
        (
            change.field,
            "\n".join(change.accepted) or "any value",
            change.added or "accepted already",
        )
        for change in found.changes
    ]
    parts = (
        about_guest(found.guest),
        "",
        table((f"in {found.name}", "accepted now", "to be added"), rows),
    )
    data = {**message(found), "guest": guest_data(found.guest)}
    return Shown(data, Group(*parts))


def sets(found: Sequence[Any]) -> Shown:
    """Named sets: where they come from, and whether they still accept."""
    rows = [
        (
            each.name,
            each.state,
            ", ".join(f"{value.field} ({len(value.values)})" for value in each.values),
            each.added_by,
            each.added_at,
            each.appraisal or "by hand",
            each.expires_at or "never",
        )
        for each in found
    ]
    columns = ("set", "state", "values", "added by", "at", "from", "expires")
    return Shown([message(each) for each in found], table(columns, rows))


def difference(one: Any, other: Any) -> Shown:  # noqa: ANN401  # as above
    """Two sets side by side, only what differs."""
    left, right = (
        {value.field: set(value.values) for value in each.values} for each in (one, other)
    )
    rows = [
        (name, "\n".join(sorted(mine)) or "-", "\n".join(sorted(theirs)) or "-")
        for name in sorted(left | right)
        if (mine := left.get(name, set())) != (theirs := right.get(name, set()))
    ]
    data = [{"field": name, one.name: a, other.name: b} for name, a, b in rows]
    text = table(("field", one.name, other.name), rows) if rows else cell("they are the same")
    return Shown(data, text, status=1 if rows else 0)


def reference(found: Any, *, stored: bool) -> Shown:  # noqa: ANN401  # as above
    """Reference data as it decides, or as it is stored, and what it leaves open."""
    decides = "" if stored else found.deciding
    data = {
        "name": found.name,
        "values": _json(decides or found.content),
        "stored": _json(found.content),
        "unpinned": list(found.unpinned),
        "unread": list(found.unread),
        "problem": found.problem,
    }
    remarks = []
    if decides and _json(decides) != _json(found.content):
        remarks.append(
            f"these values decide: {found.name} with its named sets (verdict-py reference sets); "
            "--stored shows the file"
        )
    if found.problem:
        remarks.append(f"PROBLEM: every guest is refused: {found.problem}")
    if found.unpinned:
        remarks.append(f"UNPINNED: any value is accepted for {', '.join(found.unpinned)}")
    if found.unread:
        remarks.append(f"UNREAD: the policy in force does not read {', '.join(found.unread)}")
    text = (decides or found.content).rstrip() + "\n"
    return Shown(data, raw=text.encode(), remarks=tuple(remarks))


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def documents(found: Sequence[Any]) -> Shown:
    """Documents by name, with what reads them."""
    rows = [
        (
            each.name,
            each.kind or "-",
            "yes" if each.in_force else "no",
            each.remark or ", ".join(each.read_by),
            each.size,
            each.sha256 or each.problem,
        )
        for each in found
    ]
    columns = ("document", "holds", "in force", "for", "bytes", "SHA-256")
    return Shown([message(each) for each in found], table(columns, rows))


def stored(document: Any) -> Shown:  # noqa: ANN401  # as above
    """A document that was stored: in force, or why it decides nothing."""
    text = f"{document.name} is in force"
    if not document.in_force:
        text = f"{document.name} is stored, and not in force"
    remarks = (document.remark,) if document.remark else ()
    return Shown({"done": True, **message(document)}, cell(text), remarks=remarks)


def remaining(found: Any) -> tuple[str, ...]:  # noqa: ANN401  # as above
    """What remains open, from the broker's status: a line each, none if nothing does."""
    by_tee: dict[str, list[str]] = {}
    for each in found.unpinned:
        tee, _, name = each.partition(" ")
        by_tee.setdefault(tee, []).append(name)
    lines = [
        f"UNPINNED: {tee} guests are accepted with any value of {', '.join(names)}"
        for tee, names in by_tee.items()
    ]
    lines += [f"PROBLEM: {each}" for each in found.problems]
    lines += [f"UNREAD: {each}" for each in found.unread]
    return tuple(lines)


def status(found: Any) -> Shown:  # noqa: ANN401  # as above
    """The daemon about itself."""
    judged = (
        f"{found.guests_accepted} accepted, {found.guests_refused} refused, "
        f"{found.guests_unverified} not verified"
    )
    facts: list[tuple[str, object]] = [
        ("version", found.version),
        ("started", found.started_at),
        ("guests", found.listen),
        ("client API", found.client_api),
        ("key provider", found.keyprovider_api or "on the client API"),
        ("HTTP guests", found.kbs_http or "not served"),
        ("data directory", found.data_dir),
        ("verifiers", ", ".join(found.verifiers)),
        ("attester", found.attester),
        ("judged", judged),
        ("you are", f"{found.caller} ({', '.join(found.rights)})"),
    ]
    if found.unpinned:
        facts.append(("UNPINNED", ", ".join(found.unpinned)))
    facts += [("PROBLEM", problem) for problem in found.problems]
    facts += [("UNREAD", each) for each in found.unread]
    facts += [("UNSAFE", flag) for flag in found.unsafe]
    facts += [("warning", warning) for warning in found.warnings]
    return Shown(message(found), facts_table(facts))


def facts_table(facts: Iterable[tuple[str, object]]) -> Table:
    """Names and values, a line each."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in facts:
        made.add_row(name, cell(value))
    return made


def _rules(guest: Any) -> str:  # noqa: ANN401  # as above
    return ", ".join(dict.fromkeys(reason.rule for reason in guest.reasons))
