"""Catalogue of the daemon's events: one module a subject, and all types by name here.

The log, the audit trail and `docs/reference/events.md` are derived from these types. A wire name
never changes and never gets another meaning, because operators' tools read it. A class has the
name of its event: `GuestNotJudged` for `guest.not-judged`. Its docstring says when the event is
recorded.

| module | events about |
| --- | --- |
| `guests` | appraisals of guests, and secrets released or refused to them |
| `callers` | what callers of the management APIs, key providers and persons at the console do |
| `connections` | connections, requests, and internal errors while serving them |
| `collateral` | collateral of platforms |
| `storage` | stored documents and contents, sealed objects, the data directory and databases |
| `daemon` | processes, listeners, settings, readiness, background work |
| `recording` | the audit trail, the log and the traces themselves |

A new event is a class in one of them, and needs no line here. `fields` holds the fields that
several modules use. These modules evaluate their annotations at once: as texts they would take
half of the time of their import.
"""

from typing import Final

from verdictd_py.domain.events.callers import *
from verdictd_py.domain.events.collateral import *
from verdictd_py.domain.events.connections import *
from verdictd_py.domain.events.daemon import *
from verdictd_py.domain.events.guests import *
from verdictd_py.domain.events.recording import *
from verdictd_py.domain.events.storage import *
from verdictd_py.domain.eventtypes import Event

CATALOGUE: Final[tuple[type[Event], ...]] = tuple(
    sorted(
        (
            member
            for member in tuple(globals().values())
            if isinstance(member, type) and issubclass(member, Event) and member is not Event
        ),
        key=lambda member: member.spec.name,
    )
)
"""All event types of these modules, by wire name."""
