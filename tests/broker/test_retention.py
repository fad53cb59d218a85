"""Bounds of the history: number, size, age, and a quota for each guest and machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory import NOW
from verdictd_py.broker import retention
from verdictd_py.broker.retention import Retained


@dataclass(frozen=True)
class Item:
    id: str
    guest: str = "a"
    seconds: float = 0
    size: int = 1
    machine: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        return (self.guest, self.machine) if self.machine else (self.guest,)

    @property
    def at(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)


def ids(retained: Retained[Item]) -> list[str]:
    return [item.id for item in retained]


def test_the_oldest_is_evicted() -> None:
    retained: Retained[Item] = Retained(2)
    assert [retained.add(Item(str(n), guest=str(n))) for n in range(3)] == [[], [], ["0"]]
    assert ids(retained) == ["1", "2"]
    assert retained.newest == Item("2", guest="2")
    assert [item.id for item in reversed(retained)] == ["2", "1"]


def test_a_guest_that_comes_all_the_time_evicts_its_own() -> None:
    retained: Retained[Item] = Retained(8)
    retained.add(Item("rare", guest="b"))
    for number in range(100):
        retained.add(Item(str(number)))
    assert ids(retained) == ["rare", *map(str, range(93, 100))]


def test_a_guest_with_large_evidence_evicts_its_own() -> None:
    """Firmware reserves 256 KiB for an event log, and a guest chooses what it measures."""
    retained: Retained[Item] = Retained()
    retained.add(Item("rare", guest="b"))
    for number in range(200):
        retained.add(Item(str(number), size=256 * 1024))
    kept = ids(retained)
    assert kept[0] == "rare"
    assert kept[-1] == "199"
    assert sum(item.size for item in retained) <= retention.MAX_BYTES


def test_a_machine_with_many_addresses_evicts_its_own() -> None:
    """Guests of a machine have IPv6 networks, with as many addresses as they want."""
    retained: Retained[Item] = Retained(8)
    retained.add(Item("rare", guest="b", machine="n"))
    for number in range(100):
        retained.add(Item(str(number), guest=str(number), machine="m"))
    assert ids(retained) == ["rare", *map(str, range(93, 100))]


def test_a_busy_guest_does_not_evict_others_of_its_machine() -> None:
    retained: Retained[Item] = Retained(8)
    retained.add(Item("rare", guest="b", machine="m"))
    for number in range(100):
        retained.add(Item(str(number), machine="m"))
    assert ids(retained) == ["rare", *map(str, range(93, 100))]


def test_a_single_guest_has_the_whole_capacity() -> None:
    retained: Retained[Item] = Retained(8)
    for number in range(10):
        retained.add(Item(str(number)))
    assert len(retained) == 8


def test_old_and_large_entries_are_evicted() -> None:
    retained: Retained[Item] = Retained()
    retained.add(Item("old"))
    late = retention.MAX_AGE.total_seconds() + 1
    assert retained.add(Item("new", seconds=late)) == ["old"]
    assert retained.add(Item("large", seconds=late, size=retention.MAX_BYTES)) == ["new"]
    assert ids(retained) == ["large"]


def test_an_entry_is_replaced_by_its_id() -> None:
    retained: Retained[Item] = Retained()
    retained.add(Item("1", guest="a"))
    assert retained.add(Item("1", guest="b")) == []
    assert retained.get("1") == Item("1", guest="b")
    assert retained.remove("1")
    assert not retained.remove("1")
    assert retained.newest is None


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abc"), st.booleans())))
def test_what_is_evicted_and_what_is_stored_is_everything(
    steps: list[tuple[int, str, bool]],
) -> None:
    retained: Retained[Item] = Retained(4)
    expected: set[str] = set()
    for number, guest, removed in steps:
        if removed:
            assert retained.remove(str(number)) == (str(number) in expected)
            expected.discard(str(number))
        else:
            expected.add(str(number))
            expected -= set(
                retained.add(Item(str(number), guest=guest, machine="m" * (guest != "c")))
            )
        assert set(ids(retained)) == expected
        assert len(retained) <= 4
