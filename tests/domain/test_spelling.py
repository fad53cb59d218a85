"""Distances of words, and which known word is close to a misspelled one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.domain.spelling import MAX_CHARACTERS, closest, did_you_mean, distance

WORDS = ("status", "key", "keyring", "--listen", "collateral_url", "default/key/1")
SHORT = st.text(alphabet="abc", max_size=5)


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [
        ("status", "status", 0),
        ("stauts", "status", 1),
        ("statu", "status", 1),
        ("keys", "key", 1),
        ("abc", "cba", 2),
        ("", "abc", 3),
        ("a", "abcdef", 5),
    ],
)
def test_the_distance_is_the_number_of_edits(first: str, second: str, edits: int) -> None:
    assert distance(first, second) == edits


@given(SHORT, SHORT)
def test_the_distance_is_symmetric_and_zero_for_equal_words_only(first: str, second: str) -> None:
    assert distance(first, second) == distance(second, first)
    assert (distance(first, second) == 0) == (first == second)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("stauts", "status"),
        ("keys", "key"),
        ("KEY", "key"),
        ("--lisen", "--listen"),
        ("-listen", "--listen"),
        ("--collateral-url", "collateral_url"),
        ("default/kye/1", "default/key/1"),
        ("sta", "status"),
        ("st", None),
        ("nothing", None),
        ("", None),
        ("k", None),
        ("x" * (MAX_CHARACTERS + 1), None),
    ],
)
def test_only_a_close_word_is_found(word: str, found: str | None) -> None:
    assert closest(word, WORDS) == found


def test_a_hint_is_empty_without_a_near_miss() -> None:
    assert did_you_mean("stauts", WORDS) == "; did you mean 'status'?"
    assert did_you_mean("nothing", WORDS) == ""
