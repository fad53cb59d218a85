"""Record events in memory: the fake of the `Events` port that all tests share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from verdictd_py.domain.eventtypes import Event, EventValue

E = TypeVar("E", bound=Event)


@dataclass
class RecordedEvents:
    """Stores every event, for assertions about what the log would contain.

    Attributes:
        events: all events, the oldest first.
    """

    events: list[Event] = field(default_factory=list)

    def record(self, event: Event) -> None:
        self.events.append(event)

    async def commit(self, *events: Event) -> None:
        for event in events:
            self.record(event)

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one type."""
        return [event for event in self.events if isinstance(event, kind)]

    def named(self, *names: str) -> list[dict[str, EventValue]]:
        """Return the fields, by name, of each event that has one of these wire names.

        Values are as they were recorded: lists are tuples, nothing is cut.
        """
        return [fields_of(event) for event in self.events if event.spec.name in names]

    @property
    def names(self) -> list[str]:
        """Wire names of all events, in their order."""
        return [event.spec.name for event in self.events]

    @property
    def text(self) -> str:
        """Everything that was recorded, uncut, to assert that a secret is not in it."""
        return repr([(event.spec.name, fields_of(event)) for event in self.events])

    @property
    def logged(self) -> str:
        """The same as the log would have it: cut at its bounds."""
        return repr([(event.spec.name, event.rendered()) for event in self.events])


def fields_of(event: Event) -> dict[str, EventValue]:
    """Return the values of the fields, without the optional ones that have no value."""
    return {name: getattr(event, name) for name in event.rendered()}
