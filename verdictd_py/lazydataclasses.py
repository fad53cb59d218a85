"""`dataclass` of the standard library, whose methods are compiled when a class is first used.

The daemon declares some 200 dataclasses, and the library compiles six methods for each: an eighth
of the start. Most of them have no instance until a guest connects, or an operator calls. Here, a
class with slots is declared with these only. Its first instance, or the first request for its
fields, has the library make all methods. They are the library's own, so that nothing differs
afterwards.

To a type checker, this is `dataclasses.dataclass`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from functools import partial
from inspect import get_annotations
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls: type | None = None, /, **options: bool) -> Any:  # noqa: ANN401
        """Do what `dataclasses.dataclass` does, and if the class has slots, do it later."""
        if cls is None:
            return partial(dataclass, **options)
        if not _can_wait(cls, options):
            return dataclasses.dataclass(cls, **options)
        return _declare(cls, options)


_OPTIONS: Final = frozenset({"eq", "frozen", "kw_only", "order", "slots"})
"""Options with which a class can wait. Without `__init__`, its first use would go unnoticed."""

_OF_LIBRARY: Final = ("InitVar", "KW_ONLY")
"""Words of annotations that mean more than a field."""

_FIELDS: Final = "__dataclass_fields__"
"""Attribute with the fields, by which the library also recognises its classes."""

_OF_CLASS: Final = frozenset({"__dict__", "__weakref__", "_abc_impl"})
"""Members that a copy of a class does not share."""

_AT_ONCE: Final = sys.version_info >= (3, 14)
"""Annotations are lazy themselves from then on, and a copy of a class does not share them."""


_waiting: Final[deque[_Waiting]] = deque()


def complete_all() -> None:
    """Complete all classes that still wait, so that no guest has to wait for that.

    Any thread may call this; it takes some 40 ms after the daemon's start.
    """
    while _waiting:
        _waiting.popleft().complete()


def _can_wait(cls: type, options: dict[str, bool]) -> bool:
    if _AT_ONCE or not options.get("slots") or not options.keys() <= _OPTIONS:
        return False
    hints = " ".join(map(str, get_annotations(cls).values()))
    return "__init__" not in vars(cls) and not any(word in hints for word in _OF_LIBRARY)


def _declare(cls: type, options: dict[str, bool]) -> type:
    """Return the class with its slots, and without the methods of a dataclass."""
    members = {name: value for name, value in vars(cls).items() if name not in _OF_CLASS}
    names = [name for name, hint in get_annotations(cls).items() if "ClassVar" not in str(hint)]
    inherited = {slot for base in cls.__mro__ for slot in vars(base).get("__slots__", ())}
    slots = tuple(name for name in names if name not in inherited)
    others = {name: value for name, value in members.items() if name not in names}
    declared = _copy(cls, {**others, "__slots__": slots})
    waiting = _Waiting(declared, members, options)
    declared.__init__ = waiting.constructor()  # type: ignore[misc]  # until it is first used
    setattr(declared, _FIELDS, waiting)
    _waiting.append(waiting)
    return declared


def _copy(cls: type, members: dict[str, Any]) -> type:
    copy: type = type(cls)(cls.__name__, cls.__bases__, members)
    copy.__qualname__ = cls.__qualname__
    return copy


class _Waiting:
    """A declared class without its methods; it stands for the fields of the class.

    Two threads may use a class for the first time at once: both make the same methods, each from a
    copy of the class of its own.

    Args:
        members: members of the class as it was written, with the defaults of its fields.
    """

    def __init__(self, declared: type, members: dict[str, Any], options: dict[str, bool]) -> None:
        self._declared = declared
        self._members = members
        self._options = options

    def __get__(self, instance: object, owner: type) -> object:
        self.complete()
        return getattr(owner, _FIELDS)

    def constructor(self) -> Any:  # noqa: ANN401  # a method of any class
        """Return a constructor that has itself replaced by the library's."""

        def __init__(instance: object, /, *arguments: object, **named: object) -> None:  # noqa: N807
            self.complete()
            self._declared.__init__(instance, *arguments, **named)  # type: ignore[misc]

        return __init__

    def complete(self) -> None:
        """Give the class the methods that the library makes for it, unless it has them."""
        if vars(self._declared)[_FIELDS] is not self:
            return
        made: type = dataclasses.dataclass(
            _copy(self._declared, dict(self._members)), **self._options
        )
        own = {"__doc__", "__slots__", *_OF_CLASS, *get_annotations(made)}
        methods = {name: value for name, value in vars(made).items() if name not in own}
        # These last: with the constructor, another thread may have an instance; with the fields,
        # it takes the class for a complete one.
        last = {name: methods.pop(name) for name in ("__init__", _FIELDS)}
        for name, value in (methods | last).items():
            setattr(self._declared, name, value)
