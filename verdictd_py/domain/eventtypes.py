"""What an event is: a dataclass with a wire name, a level, and fields whose sizes are bounded.

The daemon's own event types are in `verdictd_py.domain.events`. A plug-in declares further ones
in the same way; the log and the audit trail need nothing else to handle them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from verdictd_py.domain.secrets import SecretBytes

EventValue = str | int | float | bool | None | SecretBytes | tuple[str, ...]
"""Types that a field of an event may have."""

RenderedValue = str | int | float | bool | None | list[str]
"""The same after rendering: bounded, and without secrets."""


class Level(StrEnum):
    """How urgently an operator should read an event."""

    INFO = "info"
    WARNING = "warning"


class Audit(StrEnum):
    """Whether an event is written to the audit trail."""

    NO = "no"
    YES = "yes"
    """Always. What the event reports does not happen if the record cannot be written."""
    LIMITED = "limited"
    """Up to a number of records per minute: unauthenticated peers can cause this event."""


@dataclass(frozen=True, slots=True)
class About:
    """What one field means, and how long it may be; metadata of `typing.Annotated`.

    Attributes:
        meaning: one sentence for the documentation.
        characters: maximum length of a text, or of each item of a list of texts.
        items: maximum number of items of a list of texts.
        last_items: a list that is too long is cut at its beginning, not at its end.
    """

    meaning: str
    characters: int | None = None
    items: int | None = None
    last_items: bool = False

    def render(self, value: EventValue) -> RenderedValue:
        """Return `value` within the bounds; a marker says how much was cut. Never raises."""
        if isinstance(value, SecretBytes):
            return repr(value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, tuple):
            return self._list(value)
        return value

    def _text(self, text: str) -> str:
        text, limit = str(text), self.characters
        if limit is None or len(text) <= limit:
            return text
        return f"{text[:limit]}...[{len(text) - limit} more characters]"

    def _list(self, items: tuple[str, ...]) -> list[str]:
        limit = self.items
        if limit is None or len(items) <= limit:
            return [self._text(item) for item in items]
        marker = f"...[{len(items) - limit} more items]"
        if self.last_items:
            return [marker, *map(self._text, items[len(items) - limit :])]
        return [*map(self._text, items[:limit]), marker]


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of an event type.

    Attributes:
        name: its name in the log and in the audit trail.
        type: for the documentation: `text`, `list of texts`, `number`, `yes or no`,
            `size of a secret`.
        optional: it is left out where it does not apply.
        about: its meaning and bounds.
    """

    name: str
    type: str
    optional: bool
    about: About


@dataclass(frozen=True, slots=True)
class EventSpec:
    """What is known of an event type.

    Attributes:
        name: wire name, as in the log: `guest.accepted`.
        fields: by name, in the order of the log.
    """

    name: str
    level: Level
    audit: Audit
    fields: Mapping[str, FieldSpec]


class Event:
    """Base of all event types. Declare one with the decorator `event`."""

    __slots__ = ()
    spec: ClassVar[EventSpec]

    def rendered(self) -> dict[str, RenderedValue]:
        """Return the fields for the log and the audit trail.

        Texts and lists are cut at their bounds, secrets are rendered as their size. An optional
        field that has no value is left out; another field without a value is None.
        """
        values = {name: getattr(self, name) for name in self.spec.fields}
        return {
            name: self.spec.fields[name].about.render(value)
            for name, value in values.items()
            if value is not None or not self.spec.fields[name].optional
        }


_E = TypeVar("_E", bound=Event)
_TYPES: Final = {
    str: "text",
    tuple[str, ...]: "list of texts",
    int: "number",
    float: "number",
    bool: "yes or no",
    SecretBytes: "size of a secret",
}


@dataclass_transform(kw_only_default=True, frozen_default=True)
def event(
    name: str, *, level: Level = Level.INFO, audit: Audit = Audit.NO
) -> Callable[[type[_E]], type[_E]]:
    """Make a class an event type: a frozen dataclass with slots whose arguments have names.

    Each field is `Annotated` with an `About`. A field whose default is None is optional.

    Args:
        name: wire name, unique among all event types.
        level: level in the log.
        audit: whether the event is written to the audit trail.

    Raises:
        TypeError: a field has no `About`, no bound where it needs one, or another type than
            `EventValue` has. The error is raised where the class is declared.
    """

    def declare(declared: type[_E]) -> type[_E]:
        made = dataclass(frozen=True, slots=True, kw_only=True)(declared)
        hints = get_type_hints(made, include_extras=True)
        described = {
            field.name: _field(field.name, hints[field.name], optional=field.default is None)
            for field in fields(made)  # type: ignore[arg-type]  # it is a dataclass since above
        }
        made.spec = EventSpec(name, level, audit, MappingProxyType(described))
        return made

    return declare


def _field(name: str, hint: Any, *, optional: bool) -> FieldSpec:  # noqa: ANN401  # a type form
    alternatives = [hint] if get_origin(hint) is Annotated else list(get_args(hint))
    annotated = [each for each in alternatives if get_origin(each) is Annotated]
    if len(annotated) != 1:
        raise TypeError(f"field {name}: write Annotated[TYPE, About(...)], or that | None")
    of_type, about = get_args(annotated[0])[:2]
    if not isinstance(about, About) or of_type not in _TYPES:
        raise TypeError(f"field {name}: {of_type} with {about!r} is no field of an event")
    if of_type in (str, tuple[str, ...]) and about.characters is None:
        raise TypeError(f"field {name}: give the maximum number of characters")
    if of_type == tuple[str, ...] and about.items is None:
        raise TypeError(f"field {name}: give the maximum number of items")
    return FieldSpec(name, _TYPES[of_type], optional, about)
