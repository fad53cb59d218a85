"""Named sets: their union decides, and the end of one never opens what it closed."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tees import TEES
from verdictd_py.documents.referencesets import (
    MAX_SETS,
    ReferenceSet,
    checked_values,
    parse,
    retired,
    serialize,
    union,
)
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import RequestError

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
A, B, C = ("aa" * 48, "bb" * 48, "cc" * 48)


def made(*values: str, expires: datetime | None = None) -> ReferenceSet:
    return ReferenceSet({"rtmr1": values}, "uid 0", NOW, expires_at=expires)


class CountedText(str):
    """A text that counts how often it is compared."""

    __slots__ = ()
    comparisons = 0

    def __eq__(self, other: object) -> bool:
        CountedText.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_union_of_many_values_takes_time_in_proportion_to_their_number() -> None:
    """10,000 values and as many in a set took two seconds: each was compared with all others."""

    def values(first: int) -> list[CountedText]:
        return [CountedText(f"{number:096x}") for number in range(first, first + 500)]

    sets = {
        str(number): ReferenceSet({"mrTd": tuple(values(500 * number))}, "a", NOW)
        for number in range(4)
    }
    data: dict[str, JsonValue] = {"mrTd": [*values(0)]}
    combined = union(data, sets, NOW)
    assert combined["mrTd"] == [f"{number:096x}" for number in range(2000)]
    CountedText.comparisons -= 2000  # of this assertion
    assert CountedText.comparisons < 5 * 2500


def test_the_union_of_what_is_in_force_decides() -> None:
    data: dict[str, JsonValue] = {"tcbStatus": ["UpToDate"], "rtmr1": [A]}
    sets = {"one": made(B), "two": made(A, C)}
    assert union(data, sets, NOW) == {"tcbStatus": ["UpToDate"], "rtmr1": [A, B, C]}
    assert data == {"tcbStatus": ["UpToDate"], "rtmr1": [A]}


@pytest.mark.parametrize("data", [{}, {"rtmr1": []}])
def test_a_set_that_ended_leaves_its_list_closed(data: dict[str, JsonValue]) -> None:
    """An empty list accepts any value."""
    end = NOW + timedelta(days=1)
    each = made(A, expires=end)
    assert union(dict(data), {"one": each}, NOW)["rtmr1"] == [A]
    assert union(dict(data), {"one": each}, end)["rtmr1"] == ["(one is expired)"]
    gone = retired(made(A), NOW)
    assert union(dict(data), {"one": gone}, NOW)["rtmr1"] == ["(one is retired)"]
    assert retired(gone, end).retired_at == NOW


def test_a_list_that_is_none_stays_as_it_is() -> None:
    assert union({"rtmr1": "x"}, {"one": made(A)}, NOW) == {"rtmr1": "x"}


def test_what_was_written_is_read() -> None:
    sets = {
        "tdx": {
            "prod-kernel-5.10": ReferenceSet(
                {"rtmr1": (A, B), "mrTd": (C,)}, "uid 0", NOW, "00" * 32, "id", NOW, None
            ),
            "two": retired(made(A), NOW),
        }
    }
    assert parse(serialize(sets)) == sets
    assert parse("{}") == {}


GOOD = json.loads(serialize({"tdx": {"one": made(A)}}))


@pytest.mark.parametrize(
    "change",
    [
        lambda good: [],
        lambda good: {"../x": {}},
        lambda good: {"tdx": []},
        lambda good: {"tdx": {"../x": good["tdx"]["one"]}},
        lambda good: {"tdx": {"one": 1}},
        lambda good: {"tdx": {"one": {**good["tdx"]["one"], "more": 1}}},
        lambda good: {"tdx": {"one": {**good["tdx"]["one"], "values": {"rtmr1": []}}}},
        lambda good: {"tdx": {"one": {**good["tdx"]["one"], "values": {"rtmr1": "x"}}}},
        lambda good: {"tdx": {"one": {**good["tdx"]["one"], "values": 1}}},
        lambda good: {"tdx": {"one": {**good["tdx"]["one"], "addedAt": None}}},
        lambda good: {"tdx": {"one": {**good["tdx"]["one"], "expiresAt": "soon"}}},
        lambda good: {"tdx": {"one": {**good["tdx"]["one"], "expiresAt": "2027-01-01T00:00:00"}}},
        lambda good: {"tdx": {f"s{n}": good["tdx"]["one"] for n in range(MAX_SETS + 1)}},
    ],
)
def test_what_is_something_else_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(RequestError):
        parse(json.dumps(change(GOOD)))


@given(st.text(max_size=60))
def test_whatever_comes_in_is_refused_or_read(text: str) -> None:
    try:
        parse(text)
    except RequestError:
        return


@pytest.mark.parametrize(
    ("tee", "values"),
    [
        ("tdx", {}),
        ("tdx", {"reportData": ("aa" * 64,)}),
        ("tdx", {"tcbStatus": ("UpToDate",)}),
        ("tdx", {"rtmr1": ("AA" * 48,)}),
        ("tdx", {"rtmr1": ("aa",)}),
        ("sgx", {"rtmr1": (A,)}),
        ("sgx", {"mrEnclave": ("aaa",)}),
        ("sgx", {"mrEnclave": (A,)}),
        ("sgx", {"mrEnclave": ("A" * 42 + "B=",)}),  # more than 32 bytes have bits
    ],
)
def test_only_measurements_in_their_form_are_taken(
    tee: str, values: dict[str, tuple[str, ...]]
) -> None:
    with pytest.raises(RequestError):
        checked_values(TEES.named(tee).claims, values)
    assert checked_values(TEES.named("tdx").claims, {"rtmr1": (A, A)}) == {"rtmr1": (A,)}
    signer = base64.b64encode(bytes(range(224, 256))).decode()
    assert checked_values(TEES.named("sgx").claims, {"mrSigner": (signer,)}) == {
        "mrSigner": (signer,)
    }
