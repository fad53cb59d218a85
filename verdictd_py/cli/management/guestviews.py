"""Output about guests: lists, explanations, and what a pin of their measurements changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from verdictd_py.cli.management import data
from verdictd_py.cli.output.difference import Difference, measured_and_expected
from verdictd_py.cli.output.layout import Block, Column, Facts, Group, Kind, Table, Text
from verdictd_py.cli.output.result import CommandOutput
from verdictd_py.domain.claims import TCB_BEHIND

_UNNAMED: Final = "policy"
"""Rule of a reason that names no claim: its text says more than its values."""

_VERDICTS: Final = {1: "refused", 2: "refused, not verified", 3: "accepted"}

_OK: Final = "ok"

Guest = Any
"""A message of the package `verdictd.v1`; messages are made at run time."""

_GUESTS: Final = (
    "id",
    "time",
    Column("tee", optional=True),
    Column("times", Kind.NUMBER, optional=True),
    Column("peer", wide=True),
    Column("TCB", wide=True),
    Column("result", Kind.SENTENCE),
)
_CONNECTED: Final = (
    "id",
    "connected",
    Column("tee", optional=True),
    Column("peer", optional=True),
    Column("appraised", wide=True),
    Column("explained by", wide=True),
    Column("standing", Kind.SENTENCE),
)


def guests(listed: Sequence[Guest]) -> CommandOutput:
    """Return a list of appraised guests."""
    rows = [
        (
            guest.id,
            guest.at,
            guest.tee,
            guest.times,
            guest.peer,
            guest.tcb_status,
            f"{guest.code}: {rules}" if (rules := _rules(guest)) else guest.code,
        )
        for guest in listed
    ]
    return CommandOutput(
        "guest-list",
        [data.guest(guest) for guest in listed],
        Table(_GUESTS, rows),
        names=tuple(guest.id for guest in listed),
    )


def connected(listed: Sequence[Guest], total: int) -> CommandOutput:
    """Return a list of guests with an attested connection, and how each stands now.

    Args:
        total: number of all connected guests.
    """
    rows = [
        (
            guest.id,
            guest.connected_at,
            guest.tee,
            guest.peer,
            guest.appraised_at,
            guest.appraisal,
            guest.standing if guest.code == _OK else f"{guest.standing}: {guest.code}",
        )
        for guest in listed
    ]
    more = total - len(listed)
    return CommandOutput(
        "connected-guest-list",
        {"items": [data.message(guest) for guest in listed], "connected": total},
        Table(_CONNECTED, rows),
        remarks=(f"{more} more guests are connected; see --limit",) if more > 0 else (),
        names=tuple(guest.id for guest in listed),
    )


def disconnected(guest: Guest) -> CommandOutput:
    """Return the guest whose connection was closed."""
    text = f"disconnected {guest.peer} ({guest.tee}), first appraised as {guest.id}"
    return CommandOutput("connected-guest", data.message(guest), Text(text), names=(guest.id,))


def explanation(guest: Guest) -> CommandOutput:
    """Return one guest with its reasons: each measured value above the expected value."""
    parts: list[Block | str] = [about(guest)]
    for reason in guest.reasons:
        if reason.measured or reason.expected:
            parts += ["", measured_and_expected(reason.rule, reason.measured, reason.expected)]
    unnamed = [r.text for r in guest.reasons if not r.measured or r.rule == _UNNAMED]
    members = data.guest(guest)
    behind = members["claims"].get(TCB_BEHIND, ())
    closing = [*unnamed, *(f"behind the newest TCB: {component}" for component in behind)]
    if closing:
        parts += ["", *closing]
    if guest.not_pinnable:
        parts += ["", f"cannot be pinned: {guest.not_pinnable}"]
    else:
        command = f"  verdict-py reference pin --from {guest.id}"
        parts += ["", "To accept its measurements from now on, if you trust it:", command]
    return CommandOutput("guest", members, Group(*parts), names=(guest.id,))


def about(guest: Guest) -> Facts:
    """Return the facts about a guest that a person reads before trusting it."""
    return Facts(
        (
            ("guest", guest.id),
            ("verdict", f"{_VERDICTS.get(guest.verdict, 'unknown')} ({guest.code})"),
            ("time", f"{guest.at}{_in_a_row(guest)}"),
            ("peer", guest.peer),
            ("evidence", f"{guest.tee or 'none that could be read'} {guest.form}".rstrip()),
            ("FMSPC", guest.fmspc or "-"),
            ("TCB", guest.tcb_status or "-"),
            ("advisories", ", ".join(guest.advisory_ids) or "-"),
        )
    )


def pin(preview: Guest, *, done: bool) -> CommandOutput:
    """Return what a pin changes in each list of reference values.

    Args:
        done: whether the change was made.
    """
    parts: list[Block | str] = [about(preview.guest)]
    for change in preview.changes:
        name = f"{change.field} in {preview.name}"
        if not change.added:
            parts += ["", f"{name}: accepted already"]
        elif not change.accepted:
            parts += ["", Difference(name, ("to be added", ""), change.added, ())]
            parts.append("  any value is accepted now")
        else:
            labels = ("to be added", "accepted now")
            parts += ["", Difference(name, labels, change.added, list(change.accepted))]
    members = {"done": done, **data.message(preview), "guest": data.guest(preview.guest)}
    return CommandOutput("pin", members, Group(*parts), names=(preview.guest.id,))


def _in_a_row(guest: Guest) -> str:
    """Return how often the guest was refused in a row; empty for once."""
    return f", the last of {guest.times} times since {guest.first_at}" if guest.times > 1 else ""


def _rules(guest: Guest) -> str:
    return ", ".join(dict.fromkeys(reason.rule for reason in guest.reasons))
