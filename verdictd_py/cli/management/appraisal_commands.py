"""Commands about appraisals: status, explanations, policies, reference data."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentTypeError, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import (
    consent,
    document_commands,
    guestviews,
    names,
    policy_commands,
    referenceviews,
    storedviews,
)
from verdictd_py.cli.management.client import BrokerClient, BrokerFailed
from verdictd_py.cli.management.command import NAME, YES, Arguments, Command
from verdictd_py.cli.output.layout import Text
from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.errors import ConfigError
from verdictd_py.tees.registry import DEFAULT_NAME


async def _status(client: BrokerClient, options: Namespace) -> CommandOutput:
    status = await client.call(client.about.GetStatus, v1.GetStatusRequest())
    shown = storedviews.status(status)
    if options.html is None:
        return shown
    from verdictd_py.cli.management import htmlfiles  # noqa: PLC0415  # late: it takes 100 ms

    await htmlfiles.write_status(client, status, options.html, languages())
    return _written(shown, options.html)


def _written(output: CommandOutput, file: Path) -> CommandOutput:
    return replace(output, text=Text(f"the page is written to {file}"))


def languages() -> str:
    """Return the languages of this user's environment, as `Accept-Language` names them."""
    chosen = next((os.environ[n] for n in ("LC_ALL", "LC_MESSAGES", "LANG") if n in os.environ), "")
    return chosen.partition(".")[0].replace("_", "-")


async def _reference_pin(client: BrokerClient, options: Namespace) -> CommandOutput:
    """Print the difference, ask for consent, and change exactly what was printed."""
    fields = options.field or []
    if options.yes and not fields:
        raise ConfigError(
            "--yes needs --field: name the measurements to pin without a look at them"
        )
    named = await names.appraised(client, options.origin)
    if options.yes and not named.whole:
        raise ConfigError(f"--yes needs the whole id: {named.given!r} stands for {named.name}")
    preview_request = v1.PreviewPinRequest(id=named.name, fields=fields)
    preview = await client.call(client.references.PreviewPin, preview_request)
    shown = guestviews.pin(preview, done=False)
    form: Form = options.form
    shown.print(
        form if form is Form.WIDE else Form.TABLE, sys.stdout if form.for_people else sys.stderr
    )
    if options.expires and not options.set:
        raise ConfigError("--expires needs --set: only a named set can expire")
    if not options.yes and not await _accepts():
        return replace(shown, text=Text("nothing was changed"), status=1, names=())
    pinned_fields = [change.field for change in preview.changes]
    if options.set:
        added = v1.AddSetRequest(
            name=options.set,
            id=named.name,
            fields=pinned_fields,
            expires_at=options.expires or "",
        )
        return referenceviews.one_set(await client.call(client.references.AddSet, added))
    request = v1.PinValuesRequest(id=named.name, fields=pinned_fields, revision=preview.revision)
    pinned = await client.call(client.references.PinValues, request)
    accepted = ", ".join(change.field for change in pinned.changes if change.added)
    sentence = Text(f"{pinned.name} accepts this guest's {accepted}")
    return replace(guestviews.pin(pinned, done=True), text=sentence)


async def _accepts() -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("cannot ask for consent without a terminal: give --yes and --field")
    return await consent.confirmed("Accept these values from now on?")


async def _reference_sets(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.ListSetsRequest(tee=options.tee)
    return referenceviews.sets((await client.call(client.references.ListSets, request)).sets)


async def _reference_add(client: BrokerClient, options: Namespace) -> CommandOutput:
    values: dict[str, list[str]] = {}
    for field, value in options.value:
        values.setdefault(field, []).append(value)
    request = v1.AddSetRequest(
        name=options.name,
        tee=options.tee,
        values=[v1.Accepted(field=field, values=accepted) for field, accepted in values.items()],
        expires_at=options.expires or "",
    )
    return referenceviews.one_set(await client.call(client.references.AddSet, request))


async def _reference_retire(client: BrokerClient, options: Namespace) -> CommandOutput:
    named = await names.find(client, options.name, names.sets(options.tee), "sets")
    question = f"Retire the set {named.name}? Guests that only it accepts are refused then."
    if not await consent.consented(options, named, question):
        return consent.declined(named.name)
    request = v1.RetireSetRequest(tee=options.tee, name=named.name)
    return referenceviews.one_set(await client.call(client.references.RetireSet, request))


async def _reference_delete(client: BrokerClient, options: Namespace) -> CommandOutput:
    named = await names.find(client, options.name, names.sets(options.tee), "sets")
    if not await consent.consented(options, named, f"Delete the set {named.name}?"):
        return consent.declined(named.name)
    request = v1.DeleteSetRequest(tee=options.tee, name=named.name)
    await client.call(client.references.DeleteSet, request)
    return storedviews.confirmation(f"the set {named.name} is deleted", named.name)


async def _reference_diff(client: BrokerClient, options: Namespace) -> CommandOutput:
    """Compare two named sets; status 1 if they differ."""
    answer = await client.call(client.references.ListSets, v1.ListSetsRequest(tee=options.tee))
    sets = {item.name: item for item in answer.sets}

    async def search(client: BrokerClient, beginning: str) -> list[str]:
        del client, beginning
        return list(sets)

    found = []
    for given in (options.name, options.other):
        named = await names.find(client, given, search, "sets")
        if named.name not in sets:
            raise BrokerFailed(f"the broker has no set {given}", answered=True, reason="not-found")
        found.append(sets[named.name])
    return referenceviews.difference(*found)


async def _guest_list(client: BrokerClient, options: Namespace) -> CommandOutput:
    if options.verdict == "connected":
        connected = v1.ListConnectedGuestsRequest(limit=options.limit)
        answer = await client.call(client.appraisals.ListConnectedGuests, connected)
        return guestviews.connected(answer.guests, answer.connected)
    verdict = {
        "refused": v1.VERDICT_REFUSED,
        "unverified": v1.VERDICT_UNVERIFIED,
        "accepted": v1.VERDICT_ACCEPTED,
    }[options.verdict]
    request = v1.ListGuestsRequest(verdict=verdict, limit=options.limit)
    return guestviews.guests((await client.call(client.appraisals.ListGuests, request)).guests)


async def _guest_disconnect(client: BrokerClient, options: Namespace) -> CommandOutput:
    named = names.Named(options.id, options.id)
    if len(options.id) < names.ID_DIGITS:  # a worker that hangs must not delay a whole id
        named = await names.find(client, options.id, names.connected, "guests")
    if not await consent.consented(options, named, f"Disconnect the guest {named.name}?"):
        return consent.declined(named.name)
    request = v1.DisconnectGuestRequest(id=named.name)
    guest = await client.call(client.appraisals.DisconnectGuest, request)
    return guestviews.disconnected(guest)


async def _explain(client: BrokerClient, options: Namespace) -> CommandOutput:
    if options.last == bool(options.id):
        raise ConfigError("give the id of a guest, or --last")
    request = v1.GetGuestRequest(id=options.id or "")
    guest = await client.call(client.appraisals.GetGuest, request)
    shown = guestviews.explanation(guest)
    if options.html is None:
        return shown
    from verdictd_py.cli.management import htmlfiles  # noqa: PLC0415  # late: it takes 100 ms

    await htmlfiles.write_guest(client, guest.id, options.html, languages())
    return _written(shown, options.html)


def _field_value(text: str) -> tuple[str, str]:
    """Parse `CLAIM=VALUE` for argparse."""
    field, equals, value = text.partition("=")
    if not field or not equals or not value:
        raise ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    return field, value


def _count(text: str) -> int:
    """Parse a number of guests for argparse."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number <= _MAX_GUESTS:
        raise ArgumentTypeError(f"write a number from 1 to {_MAX_GUESTS}")
    return number


_MAX_GUESTS: Final = 1000
"""The broker retains no more."""

_OF_TEE: Final[Arguments] = {"tee": {"nargs": "?", "metavar": "TEE", "default": DEFAULT_NAME}}
_TEE: Final[Arguments] = {
    "--tee": {"metavar": "TEE", "default": DEFAULT_NAME, "help": "(%(default)s)"}
}
_DIFF: Final[Arguments] = {**NAME, "other": {"metavar": "NAME"}, **_TEE}
_ADD: Final[Arguments] = {
    **NAME,
    "value": {"metavar": "FIELD=VALUE", "type": _field_value, "nargs": "+"},
    "--expires": {"metavar": "RFC3339", "help": "when it expires"},
    **_TEE,
}
_PIN: Final[Arguments] = {
    "--from": {"dest": "origin", "metavar": "ID", "required": True, "help": "see guest list"},
    "--field": {"nargs": "+", "action": "extend", "metavar": "NAME", "help": "measurements"},
    "--set": {
        "metavar": "NAME",
        "help": "add them as a set of this name, not to the reference data",
    },
    "--expires": {"metavar": "RFC3339", "help": "when the set expires"},
    "--yes": {"action": "store_true", "help": "without asking; needs --field"},
}
_GUESTS: Final[Arguments] = {
    "verdict": {
        "nargs": "?",
        "choices": ("refused", "unverified", "accepted", "connected"),
        "default": "refused",
        "help": "refused (with genuine evidence, the default), unverified, accepted; "
        "or connected: guests with an attested connection now",
    },
    "--limit": {"type": _count, "default": 20, "metavar": "N", "help": "(%(default)s)"},
}
_DISCONNECT: Final[Arguments] = {
    "id": {"metavar": "ID", "help": "see guest list connected"},
    **YES,
}
_HTML: Final[Arguments] = {
    "--html": {
        "metavar": "FILE",
        "type": Path,
        "help": "write the page of the web console to this file, for a ticket",
    },
}
_EXPLAIN: Final[Arguments] = {
    "id": {"nargs": "?", "metavar": "ID", "help": "id that the guest received, or see guest list"},
    "--last": {"action": "store_true", "help": "the last guest that was not accepted"},
    **_HTML,
}

COMMANDS: Final = (
    Command(
        "status",
        "status and configuration of the broker",
        _status,
        _HTML,
        writes=("status",),
        watchable=True,
    ),
    Command(
        "explain",
        "why a guest was refused: measured, expected",
        _explain,
        _EXPLAIN,
        ("guest",),
    ),
    Command(
        "guest list",
        "guests appraised lately, or connected now",
        _guest_list,
        _GUESTS,
        ("guest-list", "connected-guest-list"),
        watchable=True,
    ),
    Command(
        "guest disconnect",
        "close a guest's connection now",
        _guest_disconnect,
        _DISCONNECT,
        ("connected-guest", "done"),
    ),
    *document_commands.POLICIES,
    *policy_commands.COMMANDS,
    *document_commands.REFERENCES,
    Command(
        "reference sets",
        "named sets of values, also expired ones",
        _reference_sets,
        _OF_TEE,
        ("reference-set-list",),
        watchable=True,
    ),
    Command(
        "reference add",
        "add a named set of values",
        _reference_add,
        _ADD,
        ("reference-set",),
        changes=True,
    ),
    Command(
        "reference retire",
        "retire a named set now",
        _reference_retire,
        {**NAME, **_TEE, **YES},
        ("reference-set", "done"),
        changes=True,
    ),
    Command(
        "reference delete",
        "delete a named set that is no longer in force",
        _reference_delete,
        {**NAME, **_TEE, **YES},
        ("done",),
        changes=True,
    ),
    Command(
        "reference diff",
        "two named sets; status 1: they differ",
        _reference_diff,
        _DIFF,
        ("reference-set-difference",),
    ),
    Command(
        "reference pin",
        "accept the measurements of an appraised guest",
        _reference_pin,
        _PIN,
        ("pin", "reference-set"),
        changes=True,
    ),
)
