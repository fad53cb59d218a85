"""Dataclasses that are completed at their first use, compared with those of the library."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, InitVar, field
from typing import Any, ClassVar

import pytest

from verdictd_py import lazydataclasses

Decorator = Callable[..., Any]


def _frozen(decorator: Decorator) -> type[Any]:
    @decorator(frozen=True, slots=True)
    class Sample:
        name: str
        secret: bytes = field(repr=False)
        size: int = field(default=3, compare=False)
        tags: list[str] = field(default_factory=list, hash=False)
        double: int = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "double", 2 * self.size)

        @property
        def upper(self) -> str:
            return self.name.upper()

    return Sample


def _mutable(decorator: Decorator) -> type[Any]:
    @decorator(slots=True)
    class Sample:
        kind: ClassVar[str] = "k"
        name: str
        secret: bytes = field(default=b"s", repr=False)

    return Sample


def _ordered(decorator: Decorator) -> type[Any]:
    @decorator(frozen=True, slots=True, order=True)
    class Sample:
        name: str
        secret: bytes = b""

    return Sample


def _by_name(decorator: Decorator) -> type[Any]:
    @decorator(frozen=True, slots=True, kw_only=True)
    class Sample:
        name: str
        secret: bytes = b""

    return Sample


def _by_identity(decorator: Decorator) -> type[Any]:
    @decorator(eq=False, slots=True)
    class Sample:
        name: str
        secret: bytes

    return Sample


def _own_comparison(decorator: Decorator) -> type[Any]:
    @decorator(frozen=True, slots=True)
    class Sample:  # noqa: PLW1641  # the library makes it
        name: str
        secret: bytes = b""

        def __eq__(self, other: object) -> bool:
            return isinstance(other, type(self)) and self.name == other.name

    return Sample


def _derived(decorator: Decorator) -> type[Any]:
    @decorator(frozen=True, slots=True)
    class Base:
        name: str

        def greet(self) -> str:
            return f"I am {self.name}"

    @decorator(frozen=True, slots=True)
    class Sample(Base):
        secret: bytes = field(default=b"", repr=False)

    return Sample


def _attempt(call: Callable[[], object]) -> Any:
    """Return the result of a call, or the type and the text of its error."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001  # compared with that of the library
        return type(error), str(error)


def _behaviour(sample: type[Any]) -> Mapping[str, object]:
    """Return everything that users of a dataclass see of it."""
    one, other = (sample(name=name, secret=b"hidden") for name in ("a", "b"))
    return {
        "repr": repr(one).replace(f"{id(one):#x}", "ID"),
        "equal": one == sample(name="a", secret=b"hidden"),
        "different": one == other,
        "another type": one == 1,
        "hashable": _attempt(lambda: hash(one) == hash(copy.copy(one))),
        "order": _attempt(lambda: one < other),
        "assign": _attempt(lambda: setattr(one, "name", "c")),
        "assign another": isinstance(_attempt(lambda: setattr(one, "none", "c")), tuple),
        "delete": _attempt(lambda: delattr(other, "name")),
        "positional": _attempt(lambda: repr(sample("a", b"hidden"))),
        "unknown": _attempt(lambda: sample(name="a", nothing=1)),
        "fields": [(f.name, f.repr, f.compare, f.init) for f in dataclasses.fields(sample)],
        "replaced": repr(dataclasses.replace(one, name="r")).replace("0x", ""),
        "deep": isinstance(copy.deepcopy(one), sample),
        "match": sample.__match_args__,
        "slots": sample.__slots__,
        "hidden": b"hidden" in repr(one).encode(),
        "no dict": hasattr(one, "__dict__"),
        "of the class": getattr(one, "kind", None),
        "qualname": sample.__qualname__,
    }


SAMPLES = [_frozen, _mutable, _ordered, _by_name, _own_comparison, _derived]


@pytest.mark.parametrize("make", SAMPLES)
def test_a_class_behaves_as_one_of_the_library(make: Callable[[Decorator], type[Any]]) -> None:
    assert _behaviour(make(lazydataclasses.dataclass)) == _behaviour(make(dataclasses.dataclass))


def test_instances_without_comparison_are_compared_by_identity() -> None:
    sample = _by_identity(lazydataclasses.dataclass)
    one, other = sample("a", b""), sample("a", b"")
    assert one != other
    assert {one: 1}[one] == 1


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda cls: cls("a", b"b"), id="first instance"),
        pytest.param(dataclasses.fields, id="fields"),
        pytest.param(dataclasses.is_dataclass, id="is_dataclass"),
    ],
)
def test_the_first_use_compiles_the_methods_and_no_earlier_one(
    use: Callable[[type[Any]], object],
) -> None:
    sample = _mutable(lazydataclasses.dataclass)
    assert "__repr__" not in vars(sample)
    assert use(sample)
    assert {"__repr__", "__eq__", "__init__", "__match_args__"} <= vars(sample).keys()
    assert vars(sample)["__init__"].__code__.co_varnames == ("self", "name", "secret")


def test_a_derived_class_completes_its_base() -> None:
    sample = _derived(lazydataclasses.dataclass)
    one = sample("a", b"b")
    assert one.greet() == "I am a"
    assert sample.__mro__[1]("c").greet() == "I am c"


def test_a_derived_class_without_decorator_uses_the_constructor() -> None:
    class Derived(_frozen(lazydataclasses.dataclass)):  # type: ignore[misc]
        pass

    assert Derived("a", b"b").double == 6


def test_options_and_fields_that_cannot_wait_are_compiled_at_once() -> None:
    @lazydataclasses.dataclass(frozen=True)
    class WithoutSlots:
        name: str

    @lazydataclasses.dataclass(slots=True)
    class WithVariable:
        name: InitVar[str]
        size: int = 3

    @lazydataclasses.dataclass
    class WithoutOptions:
        name: str

    for sample in (WithoutSlots, WithVariable, WithoutOptions):
        assert "__repr__" in vars(sample)
    assert WithVariable("a").size == 3


def test_threads_that_use_a_class_at_once_get_the_same_class() -> None:
    for _ in range(50):
        sample = _frozen(lazydataclasses.dataclass)
        start, made = threading.Barrier(4), []

        def use(start: threading.Barrier = start, sample: type[Any] = sample) -> None:
            start.wait()
            made.append(sample("a", b"hidden"))  # noqa: B023  # the list of this round

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(hash, made))) == 1
        assert all(each == made[0] for each in made)
        assert not any("hidden" in repr(each) for each in made)
        with pytest.raises(FrozenInstanceError):
            made[0].name = "b"


def test_all_classes_can_be_completed_at_once() -> None:
    sample = _frozen(lazydataclasses.dataclass)
    lazydataclasses.complete_all()
    assert "__repr__" in vars(sample)
    lazydataclasses.complete_all()
    assert "hidden" not in repr(sample("a", b"hidden"))


def test_the_start_completes_a_part_of_the_classes_and_loads_no_rich() -> None:
    """The rest costs a tenth of the start, and is completed when a guest connects."""
    program = (
        "import sys\n"
        "import verdictd_py.cli.daemon, verdictd_py.daemon.process\n"
        "modules = [m for name, m in sys.modules.items() if name.startswith('verdictd_py')]\n"
        "classes = {c for m in modules for c in vars(m).values() if isinstance(c, type)}\n"
        "name = '__dataclass_fields__'\n"
        "fields = [vars(c)[name] for c in classes if name in vars(c)]\n"
        "print(len(fields), sum(isinstance(each, dict) for each in fields))\n"
        "print(sorted({'rich'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    numbers, rich = done.stdout.splitlines()
    declared, completed = map(int, numbers.split())
    assert declared > 150
    assert completed < declared / 2
    assert rich == "[]"
