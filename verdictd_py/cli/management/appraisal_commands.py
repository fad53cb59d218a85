"""Commands for how guests are judged: status, explanations, policies, reference data."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentTypeError, Namespace
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import document_commands, policy_commands, show
from verdictd_py.cli.management.client import BrokerClient, BrokerFailed
from verdictd_py.cli.management.command import NAME, Arguments, Command
from verdictd_py.cli.management.show import Shown
from verdictd_py.errors import ConfigError
from verdictd_py.tees.registry import DEFAULT_NAME


async def _status(client: BrokerClient, options: Namespace) -> Shown:
    del options
    return show.status(await client.ask(client.about.GetStatus, v1.GetStatusRequest()))


async def _reference_pin(client: BrokerClient, options: Namespace) -> Shown:
    """Shows the difference, asks, and changes what was shown or nothing."""
    fields = options.field or []
    if options.yes and not fields:
        raise ConfigError("--yes needs --field: say which measurements nobody will look at")
    wanted = v1.PreviewPinRequest(id=options.origin, fields=fields)
    preview = await client.ask(client.references.PreviewPin, wanted)
    show.pinned(preview).print(as_json=False, on_error=options.json)
    if options.expires and not options.set:
        raise ConfigError("--expires needs --set: only a named set can end")
    if not options.yes and not await _agreed("Accept these values from now on?"):
        return Shown({"done": False}, show.cell("nothing was changed"), status=1)
    if options.set:
        added = v1.AddSetRequest(
            name=options.set,
            id=options.origin,
            fields=[change.field for change in preview.changes],
            expires_at=options.expires or "",
        )
        return show.sets([await client.ask(client.references.AddSet, added)])
    request = v1.PinValuesRequest(
        id=options.origin,
        fields=[change.field for change in preview.changes],
        revision=preview.revision,
    )
    pinned = await client.ask(client.references.PinValues, request)
    data = {"done": True, **show.pinned(pinned).as_data()}
    names = ", ".join(change.field for change in pinned.changes if change.added)
    return Shown(data, show.cell(f"{pinned.name} accepts this guest's {names}"))


async def _reference_sets(client: BrokerClient, options: Namespace) -> Shown:
    request = v1.ListSetsRequest(tee=options.tee)
    return show.sets((await client.ask(client.references.ListSets, request)).sets)


async def _reference_add(client: BrokerClient, options: Namespace) -> Shown:
    values: dict[str, list[str]] = {}
    for field, value in options.value:
        values.setdefault(field, []).append(value)
    request = v1.AddSetRequest(
        name=options.name,
        tee=options.tee,
        values=[v1.Accepted(field=field, values=each) for field, each in values.items()],
        expires_at=options.expires or "",
    )
    return show.sets([await client.ask(client.references.AddSet, request)])


async def _reference_retire(client: BrokerClient, options: Namespace) -> Shown:
    request = v1.RetireSetRequest(tee=options.tee, name=options.name)
    return show.sets([await client.ask(client.references.RetireSet, request)])


async def _reference_delete(client: BrokerClient, options: Namespace) -> Shown:
    request = v1.DeleteSetRequest(tee=options.tee, name=options.name)
    await client.ask(client.references.DeleteSet, request)
    return show.done(f"the set {options.name} is deleted", name=options.name)


async def _reference_diff(client: BrokerClient, options: Namespace) -> Shown:
    """Status 1 where they differ."""
    request = v1.ListSetsRequest(tee=options.tee)
    found = {
        each.name: each for each in (await client.ask(client.references.ListSets, request)).sets
    }
    for name in (options.name, options.other):
        if name not in found:
            raise BrokerFailed(f"the broker has no set {name}", answered=True)
    return show.difference(found[options.name], found[options.other])


async def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask on: give --yes and --field")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    # Reading at once would block the loop, and with it the end that control-C asks for.
    loop, answered = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, answered.set)
    try:
        await answered.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _guest_list(client: BrokerClient, options: Namespace) -> Shown:
    verdict = {
        "refused": v1.VERDICT_REFUSED,
        "unverified": v1.VERDICT_UNVERIFIED,
        "accepted": v1.VERDICT_ACCEPTED,
    }[options.verdict]
    request = v1.ListGuestsRequest(verdict=verdict, limit=options.limit)
    return show.guests((await client.ask(client.appraisals.ListGuests, request)).guests)


async def _explain(client: BrokerClient, options: Namespace) -> Shown:
    if options.last == bool(options.id):
        raise ConfigError("say which guest: its id, or --last")
    request = v1.GetGuestRequest(id=options.id or "")
    return show.explained(await client.ask(client.appraisals.GetGuest, request))


def _field_value(text: str) -> tuple[str, str]:
    """For argparse: name of a claim, `=`, value."""
    field, equals, value = text.partition("=")
    if not field or not equals or not value:
        raise ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    return field, value


def _count(text: str) -> int:
    """For argparse: a number above 0."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number <= _MAX_GUESTS:
        raise ArgumentTypeError(f"write a number from 1 to {_MAX_GUESTS}")
    return number


_MAX_GUESTS: Final = 1000
"""More are not remembered."""

_OF_TEE: Final[Arguments] = {"tee": {"nargs": "?", "metavar": "TEE", "default": DEFAULT_NAME}}
_TEE: Final[Arguments] = {
    "--tee": {"metavar": "TEE", "default": DEFAULT_NAME, "help": "(%(default)s)"}
}
_DIFF: Final[Arguments] = {**NAME, "other": {"metavar": "NAME"}, **_TEE}
_ADD: Final[Arguments] = {
    **NAME,
    "value": {"metavar": "FIELD=VALUE", "type": _field_value, "nargs": "+"},
    "--expires": {"metavar": "RFC3339", "help": "until when it accepts"},
    **_TEE,
}
_PIN: Final[Arguments] = {
    "--from": {"dest": "origin", "metavar": "ID", "required": True, "help": "see guest list"},
    "--field": {"nargs": "+", "action": "extend", "metavar": "NAME", "help": "measurements"},
    "--set": {"metavar": "NAME", "help": "as a set of this name, not into the reference data"},
    "--expires": {"metavar": "RFC3339", "help": "until when the set accepts"},
    "--yes": {"action": "store_true", "help": "do not ask; needs --field"},
}
_GUESTS: Final[Arguments] = {
    "verdict": {
        "nargs": "?",
        "choices": ("refused", "unverified", "accepted"),
        "default": "refused",
        "help": "refused with genuine evidence (the default), with none that verified, accepted",
    },
    "--limit": {"type": _count, "default": 20, "metavar": "N", "help": "(%(default)s)"},
}
_EXPLAIN: Final[Arguments] = {
    "id": {"nargs": "?", "metavar": "ID", "help": "what the guest was told, or see guest list"},
    "--last": {"action": "store_true", "help": "the last guest that was not accepted"},
}

COMMANDS: Final = (
    Command("status", "what the broker is and does", _status),
    Command("explain", "why a guest was refused: measured, expected", _explain, _EXPLAIN),
    Command("guest list", "the guests judged lately", _guest_list, _GUESTS),
    *document_commands.POLICIES,
    *policy_commands.COMMANDS,
    *document_commands.REFERENCES,
    Command("reference sets", "named sets of values, ended ones too", _reference_sets, _OF_TEE),
    Command(
        "reference add",
        "a named set of values given by hand",
        _reference_add,
        _ADD,
        changes=True,
    ),
    Command(
        "reference retire",
        "end a named set now",
        _reference_retire,
        {**NAME, **_TEE},
        changes=True,
    ),
    Command(
        "reference delete",
        "a named set that is no longer in force",
        _reference_delete,
        {**NAME, **_TEE},
        changes=True,
    ),
    Command("reference diff", "two named sets; status 1: they differ", _reference_diff, _DIFF),
    Command(
        "reference pin",
        "accept the measurements of a guest seen",
        _reference_pin,
        _PIN,
        changes=True,
    ),
)
