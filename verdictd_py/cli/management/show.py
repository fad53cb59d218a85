"""Output of `verdict-py`: the broker's answers as tables for people, or as JSON for programs."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TextIO

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from verdictd_py.cli.parsing import printable
from verdictd_py.domain.claims import TCB_BEHIND
from verdictd_py.errors import ConfigError

_WIDE: Final = 400
"""Columns if the output is not a terminal: a row of a table stays one line, for grep."""

_UNNAMED: Final = "policy"
"""Rule of a reason that names no claim: its text says more than its values."""

_VERDICTS: Final = {1: "refused", 2: "refused, not verified", 3: "accepted"}


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """Output of a command in both forms, with the exit status.

    Attributes:
        data: printed by `--json`.
        text: printed otherwise; None if `data` is the text.
        status: exit status of the program.
        raw: content that is written byte for byte unless the output is JSON or a terminal.
        remarks: notes about the data, a line each on standard error.
    """

    data: object
    text: RenderableType | None = None
    status: int = 0
    raw: bytes | None = field(default=None, repr=False)
    remarks: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Return the data if it is an object, otherwise an empty object."""
        return self.data if isinstance(self.data, dict) else {}

    def print(self, *, as_json: bool, on_error: bool = False) -> None:
        """Print to standard output, or to standard error where standard output must stay JSON.

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
            write(stream, self._rendered(terminal=stream.isatty()))

    def print_remarks(self) -> None:
        """Write the remarks to standard error."""
        for line in self.remarks:
            write(sys.stderr, printable(line) + "\n")

    def _rendered(self, *, terminal: bool) -> str:
        """Return the text for people, without the blanks that rich appends to the last column."""
        rendered = io.StringIO()
        width = None if terminal else _WIDE
        console = Console(file=rendered, width=width, force_terminal=terminal, highlight=False)
        console.print(cell(str(self.data)) if self.text is None else self.text)
        return "".join(line.rstrip() + "\n" for line in rendered.getvalue().splitlines())


def write(stream: TextIO, content: str | bytes) -> None:
    """Write the content and flush the stream.

    Raises:
        BrokenPipeError: the reader closed the pipe.
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
        sys.stdout = None  # otherwise Python tries to flush it again at exit
        raise ConfigError(
            f"cannot write the answer: {error.strerror}; the broker has completed the request"
        ) from error


def content(name: str, value: bytes) -> CommandOutput:
    """Return content that is written byte for byte; in JSON it is base64."""
    return CommandOutput({"name": name, "content": base64.b64encode(value).decode()}, raw=value)


def confirmation(text: str, **data: object) -> CommandOutput:
    """Return a sentence that confirms a change."""
    return CommandOutput({"done": True, **data}, cell(text))


class StoredContent(Protocol):
    """Response of a call that stores a content that guests read."""

    @property
    def problems(self) -> Iterable[str]: ...

    @property
    def warnings(self) -> Iterable[str]: ...


def stored_content(
    text: str, answer: StoredContent, *, converted: Iterable[str] = (), **data: object
) -> CommandOutput:
    """Return what was stored, and why guests cannot use it, all of them or some.

    Args:
        converted: differences of the stored content from the file.
    """
    problems, warnings = list(answer.problems), list(answer.warnings)
    lines = (
        text,
        *(f"converted: {difference}" for difference in converted),
        *(f"no guest can use it: {problem}" for problem in problems),
        *(f"warning: {warning}" for warning in warnings),
    )
    found = {"problems": problems, "warnings": warnings, "converted": list(converted)}
    return confirmation("\n".join(lines), **data, **found)


def message(answer: Message) -> dict[str, Any]:
    """Return a message as JSON with the names of the `.proto` file, defaults included."""
    return MessageToDict(
        answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def cell(value: object) -> Text:
    """Return text without control characters; the broker's text may contain a guest's text."""
    return Text(printable(str(value)))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table in which values that are too wide are folded, never cut."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(cell(value) for value in row))
    return result


def keys(keys: Sequence[Any]) -> CommandOutput:
    """Return a list of keys, without their bytes."""
    rows = [(key.name, key.changed_at, key.size, key.problem) for key in keys]
    data = [message(key) for key in keys]
    return CommandOutput(data, table(("key", "changed", "bytes", "problem"), rows))


def resources(resources: Sequence[Any]) -> CommandOutput:
    """Return a list of resources, without their content."""
    rows = [(item.path, item.file, item.changed_at, item.size, item.problem) for item in resources]
    data = [message(item) for item in resources]
    return CommandOutput(data, table(("resource", "file", "changed", "bytes", "problem"), rows))


def guests(guests: Sequence[Any]) -> CommandOutput:
    """Return a list of appraised guests."""
    rows = [
        (
            guest.id,
            guest.at,
            guest.times,
            guest.peer,
            guest.tee,
            guest.code,
            guest.tcb_status,
            _rules(guest),
        )
        for guest in guests
    ]
    columns = ("id", "time", "times", "peer", "tee", "code", "TCB", "rules that refused")
    return CommandOutput([guest_data(guest) for guest in guests], table(columns, rows))


def connected_guests(answer: Any) -> CommandOutput:  # noqa: ANN401  # as below
    """Return a list of guests with an attested connection, and how each stands now."""
    rows = [
        (
            guest.id,
            guest.connected_at,
            guest.peer,
            guest.tee,
            guest.standing,
            guest.code,
            guest.appraised_at,
            guest.appraisal,
        )
        for guest in answer.guests
    ]
    columns = ("id", "connected", "peer", "tee", "standing", "code", "appraised", "explained by")
    more = answer.connected - len(answer.guests)
    remarks = (f"{more} more guests are connected; see --limit",) if more > 0 else ()
    data = [message(guest) for guest in answer.guests]
    return CommandOutput(data, table(columns, rows), remarks=remarks)


def disconnected_guest(guest: Any) -> CommandOutput:  # noqa: ANN401  # as below
    """Return the guest whose connection was closed."""
    text = f"disconnected {guest.peer} ({guest.tee}), first appraised as {guest.id}"
    return CommandOutput(message(guest), cell(text))


def explanation(guest: Any) -> CommandOutput:  # noqa: ANN401  # messages are made at run time
    """Return one guest with its reasons: each measured value next to the expected value."""
    rows = [
        (reason.rule, reason.measured, reason.expected)
        for reason in guest.reasons
        if reason.measured or reason.expected
    ]
    parts: list[RenderableType] = [about_guest(guest)]
    if rows:
        parts += ["", table(("rule", "measured", "expected"), rows)]
    unnamed = (reason for reason in guest.reasons if not reason.measured or reason.rule == _UNNAMED)
    parts += ["", *(cell(reason.text) for reason in unnamed)]
    behind = guest_data(guest)["claims"].get(TCB_BEHIND, ())
    parts += [cell(f"behind the newest TCB: {component}") for component in behind]
    if guest.not_pinnable:
        parts.append(cell(f"cannot be pinned: {guest.not_pinnable}"))
    else:
        parts.append(cell(f"trust it? verdict-py reference pin --from {guest.id}"))
    return CommandOutput(guest_data(guest), Group(*parts))


def about_guest(guest: Any) -> Table:  # noqa: ANN401  # as above
    """Return the facts about a guest that a person reads before trusting it."""
    facts = (
        ("guest", guest.id),
        ("verdict", f"{_VERDICTS.get(guest.verdict, 'unknown')} ({guest.code})"),
        ("time", f"{guest.at}{_row(guest)}"),
        ("peer", guest.peer),
        ("evidence", f"{guest.tee or 'none that could be read'} {guest.form}".rstrip()),
        ("FMSPC", guest.fmspc or "-"),
        ("TCB", guest.tcb_status or "-"),
        ("advisories", ", ".join(guest.advisory_ids) or "-"),
    )
    return facts_table(facts)


def _row(guest: Any) -> str:  # noqa: ANN401  # as above
    """Return how often the guest was refused in a row; empty for once."""
    return f", the last of {guest.times} times since {guest.first_at}" if guest.times > 1 else ""


def guest_data(guest: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """Return a guest as JSON, with its claims as an object."""
    data = message(guest)
    data["verdict"] = str(data["verdict"]).removeprefix("VERDICT_").lower()
    data["claims"] = json.loads(guest.claims) if guest.claims else {}
    return data


def pin_changes(preview: Any) -> CommandOutput:  # noqa: ANN401  # as above
    """Return what a pin changes in each list of reference values."""
    rows = [
        (
            change.field,
            "\n".join(change.accepted) or "any value",
            change.added or "accepted already",
        )
        for change in preview.changes
    ]
    parts = (
        about_guest(preview.guest),
        "",
        table((f"in {preview.name}", "accepted now", "to be added"), rows),
    )
    data = {**message(preview), "guest": guest_data(preview.guest)}
    return CommandOutput(data, Group(*parts))


def sets(reference_sets: Sequence[Any]) -> CommandOutput:
    """Return named sets, with their origin and whether they are in force."""
    rows = [
        (
            item.name,
            item.state,
            ", ".join(f"{value.field} ({len(value.values)})" for value in item.values),
            item.added_by,
            item.added_at,
            item.appraisal or "by hand",
            item.expires_at or "never",
        )
        for item in reference_sets
    ]
    columns = ("set", "state", "values", "added by", "at", "from", "expires")
    return CommandOutput([message(item) for item in reference_sets], table(columns, rows))


def difference(one: Any, other: Any) -> CommandOutput:  # noqa: ANN401  # as above
    """Return the lists in which two sets differ; status 1 if there are any."""
    left, right = (
        {value.field: set(value.values) for value in item.values} for item in (one, other)
    )
    rows = [
        (name, "\n".join(sorted(mine)) or "-", "\n".join(sorted(theirs)) or "-")
        for name in sorted(left | right)
        if (mine := left.get(name, set())) != (theirs := right.get(name, set()))
    ]
    data = [{"field": name, one.name: a, other.name: b} for name, a, b in rows]
    text = table(("field", one.name, other.name), rows) if rows else cell("they are the same")
    return CommandOutput(data, text, status=1 if rows else 0)


def reference(answer: Any, *, stored: bool) -> CommandOutput:  # noqa: ANN401  # as above
    """Return reference data as it decides, or as it is stored, with remarks on its problems."""
    decides = "" if stored else answer.deciding
    data = {
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
    return CommandOutput(data, raw=text.encode(), remarks=tuple(remarks))


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def documents(documents: Sequence[Any]) -> CommandOutput:
    """Return a list of documents, with what reads each of them."""
    rows = [
        (
            item.name,
            item.kind or "-",
            "yes" if item.in_force else "no",
            item.remark or ", ".join(item.read_by),
            item.size,
            item.sha256 or item.problem,
        )
        for item in documents
    ]
    columns = ("document", "holds", "in force", "for", "bytes", "SHA-256")
    return CommandOutput([message(item) for item in documents], table(columns, rows))


def stored_document(document: Any) -> CommandOutput:  # noqa: ANN401  # as above
    """Return whether a document that was stored is in force, and if not, why."""
    text = f"{document.name} is in force"
    if not document.in_force:
        text = f"{document.name} is stored, and not in force"
    remarks = (document.remark,) if document.remark else ()
    return CommandOutput({"done": True, **message(document)}, cell(text), remarks=remarks)


def open_problems(status: Any) -> tuple[str, ...]:  # noqa: ANN401  # as above
    """Return the problems and open measurements that a broker's status lists, a line each."""
    by_tee: dict[str, list[str]] = {}
    for unpinned in status.unpinned:
        tee, _, name = unpinned.partition(" ")
        by_tee.setdefault(tee, []).append(name)
    lines = [
        f"UNPINNED: {tee} guests are accepted with any value of {', '.join(names)}"
        for tee, names in by_tee.items()
    ]
    lines += [f"PROBLEM: {problem}" for problem in status.problems]
    lines += [f"UNREAD: {name}" for name in status.unread]
    return tuple(lines)


def status(answer: Any) -> CommandOutput:  # noqa: ANN401  # as above
    """Return the status that a daemon reports."""
    verdicts = (
        f"{answer.guests_accepted} accepted, {answer.guests_refused} refused, "
        f"{answer.guests_unverified} not verified"
    )
    facts: list[tuple[str, object]] = [
        ("version", answer.version),
        ("started", answer.started_at),
        ("guests", answer.listen),
        ("client API", answer.client_api),
        ("key provider", answer.keyprovider_api or "on the client API"),
        ("HTTP guests", answer.kbs_http or "not served"),
        ("data directory", answer.data_dir),
        ("verifiers", ", ".join(answer.verifiers)),
        ("attester", answer.attester),
        ("appraised", verdicts),
        ("you are", f"{answer.caller} ({', '.join(answer.rights)})"),
    ]
    if answer.workers:
        facts.append(("workers", f"{answer.workers_serving} of {answer.workers} serve guests"))
    if answer.unpinned:
        facts.append(("UNPINNED", ", ".join(answer.unpinned)))
    facts += [("PROBLEM", problem) for problem in answer.problems]
    facts += [("UNREAD", name) for name in answer.unread]
    facts += [("UNSAFE", flag) for flag in answer.unsafe]
    facts += [("warning", warning) for warning in answer.warnings]
    return CommandOutput(message(answer), facts_table(facts))


def facts_table(facts: Iterable[tuple[str, object]]) -> Table:
    """Return a table of names and values, a line each."""
    result = Table(box=None, pad_edge=False, show_header=False)
    result.add_column(style="bold", no_wrap=True)
    result.add_column(overflow="fold")
    for name, value in facts:
        result.add_row(name, cell(value))
    return result


def _rules(guest: Any) -> str:  # noqa: ANN401  # as above
    return ", ".join(dict.fromkeys(reason.rule for reason in guest.reasons))
