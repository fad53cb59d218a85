"""Declaration of event types: classes with a wire name, a level and fields of bounded size.

The daemon's own event types are in `verdictd_py.domain.events`. A plug-in declares further types
in the same way; the log and the audit trail handle them without further code.

Event types look like frozen dataclasses with keyword-only arguments, and are none: `dataclass`
compiles six methods for each type, a twelfth of the daemon's start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from enum import StrEnum
from inspect import get_annotations
from types import MappingProxyType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    NoReturn,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from verdictd_py.domain.correlation import Correlation, current
from verdictd_py.domain.secrets import SecretBytes

EventValue = str | int | float | bool | None | SecretBytes | tuple[str, ...]
"""Types that a field of an event may have."""

RenderedValue = str | int | float | bool | None | list[str]
"""Types of rendered values: bounded, and without secrets."""


class Level(StrEnum):
    """How urgently an operator should read an event."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @classmethod
    def from_level(cls, least: str) -> frozenset[str]:
        """Return a level and all more urgent ones."""
        levels = [level.value for level in cls]
        return frozenset(levels[levels.index(least) :])


class Audit(StrEnum):
    """Whether an event is written to the audit trail."""

    NO = "no"
    YES = "yes"
    """Always. If the record cannot be written, the operation that it reports fails."""
    LIMITED = "limited"
    """At most a number of records per minute: unauthenticated peers can cause this event."""


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """Meaning and maximum length of one field; metadata of `typing.Annotated`.

    Attributes:
        meaning: one sentence for the documentation.
        characters: maximum length of a text, or of each item of a list of texts.
        items: maximum number of items of a list of texts.
        last_items: whether a list that is too long retains its last items, not its first ones.
    """

    meaning: str
    characters: int | None = None
    items: int | None = None
    last_items: bool = False

    def render(self, value: EventValue) -> RenderedValue:
        """Return `value` truncated to the bounds, with a marker if it was cut. Never raises."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, tuple):
            return self._list(value)
        if isinstance(value, SecretBytes):
            return repr(value)
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
        type: type in the documentation: `text`, `list of texts`, `number`, `yes or no`,
            `size of a secret`.
        optional: whether it is omitted if it does not apply.
        info: its meaning and bounds.
    """

    name: str
    type: str
    optional: bool
    info: FieldInfo


@dataclass(frozen=True, slots=True)
class EventSpec:
    """Specification of an event type.

    Attributes:
        name: wire name, as in the log: `guest.accepted`.
        fields: fields by name, in the order of the log.
        by_peers: whether any peer can cause it, an unauthenticated one too. The log then has a
            limited number of lines per minute and source; the audit trail is not affected.
        defaults: values of the fields that have one, by name.
        names: names of the fields.
    """

    name: str
    level: Level
    audit: Audit
    fields: Mapping[str, FieldSpec]
    by_peers: bool = False
    defaults: Mapping[str, EventValue] = field(default_factory=dict)
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(self.fields))

    def completed(self, values: Mapping[str, EventValue]) -> dict[str, EventValue]:
        """Return the values of all fields: the given ones, and defaults.

        Raises:
            TypeError: a value is missing, or there is no such field.
        """
        complete = {**self.defaults, **values}
        if complete.keys() != self.fields.keys():
            wrong = ", ".join(sorted(complete.keys() ^ self.fields.keys()))
            raise TypeError(f"event {self.name}: missing or unknown fields: {wrong}")
        return complete


class Event:
    """Base of all event types. Declare one with the decorator `event`.

    Attributes:
        correlation: the connection because of which the event happens. Not a field: two events
            are equal whatever their connections are.
    """

    __slots__ = ("__dict__", "_rendered", "correlation")

    spec: ClassVar[EventSpec]
    correlation: Correlation
    _rendered: dict[str, RenderedValue]

    def __init__(self, **values: EventValue) -> None:
        if values.keys() != self.spec.names:
            values = self.spec.completed(values)
        object.__setattr__(self, "__dict__", values)
        object.__setattr__(self, "correlation", current())

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *(self.__dict__[name] for name in self.spec.fields)))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.spec.fields)
        return f"{type(self).__qualname__}({values})"

    def rendered(self) -> Mapping[str, RenderedValue]:
        """Return the fields for the log and the audit trail.

        Texts and lists are truncated to their bounds, secrets are rendered as their size. An
        optional field without a value is omitted; any other field without a value is None.
        """
        rendered: dict[str, RenderedValue] | None = getattr(self, "_rendered", None)
        if rendered is None:  # the trail and the log need it
            rendered = self._render()
            object.__setattr__(self, "_rendered", rendered)
        return rendered

    def _render(self) -> dict[str, RenderedValue]:
        rendered: dict[str, RenderedValue] = {}
        values = self.__dict__
        for name, declared in self.spec.fields.items():
            value: EventValue = values[name]
            if value is not None:
                rendered[name] = declared.info.render(value)
            elif not declared.optional:
                rendered[name] = None
        return rendered


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
    name: str, *, level: Level = Level.INFO, audit: Audit = Audit.NO, by_peers: bool = False
) -> Callable[[type[_E]], type[_E]]:
    """Make a class an event type, which is frozen and has keyword-only arguments.

    Each field is `Annotated` with a `FieldInfo`. A field whose default is None is optional.

    Args:
        name: wire name, unique among all event types.
        level: level in the log.
        audit: whether the event is written to the audit trail.
        by_peers: whether any peer can cause it, an unauthenticated one too.

    Raises:
        TypeError: a field has no `FieldInfo`, lacks a bound, or has a type that is not in
            `EventValue`. The error is raised where the class is declared.
    """

    def declare(event_type: type[_E]) -> type[_E]:
        names = get_annotations(event_type)
        hints = names
        if any(isinstance(hint, str) for hint in names.values()):
            hints = get_type_hints(event_type, include_extras=True)
        defaults = {name: vars(event_type)[name] for name in names if name in vars(event_type)}
        specs = {
            name: _field(name, hints[name], optional=defaults.get(name, _NO_DEFAULT) is None)
            for name in names
        }
        event_type.spec = EventSpec(
            name, level, audit, MappingProxyType(specs), by_peers, MappingProxyType(defaults)
        )
        return event_type

    return declare


_NO_DEFAULT: Final = object()


def _field(name: str, hint: Any, *, optional: bool) -> FieldSpec:  # noqa: ANN401  # a type form
    alternatives = [hint] if get_origin(hint) is Annotated else list(get_args(hint))
    annotated = [form for form in alternatives if get_origin(form) is Annotated]
    if len(annotated) != 1:
        raise TypeError(f"field {name}: write Annotated[TYPE, FieldInfo(...)], or that | None")
    of_type, info = get_args(annotated[0])[:2]
    if not isinstance(info, FieldInfo) or of_type not in _TYPES:
        raise TypeError(f"field {name}: {of_type} with {info!r} cannot be a field of an event")
    if of_type in (str, tuple[str, ...]) and info.characters is None:
        raise TypeError(f"field {name}: give the maximum number of characters")
    if of_type == tuple[str, ...] and info.items is None:
        raise TypeError(f"field {name}: give the maximum number of items")
    return FieldSpec(name, _TYPES[of_type], optional, info)
