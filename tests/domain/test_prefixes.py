"""Beginnings of names: unique, exact, or ambiguous with a bounded list of candidates."""

from __future__ import annotations

import pytest

from verdictd_py.domain.prefixes import MAX_CANDIDATES, only_match
from verdictd_py.errors import RequestError


def test_the_only_match_and_the_exact_name() -> None:
    assert only_match("ab", ["abc", "abc"], "keys") == "abc"
    assert only_match("ab", ["abc", "ab"], "keys") == "ab"


def test_an_ambiguous_prefix_lists_the_first_candidates_in_one_line() -> None:
    names = [f"k{number:02}" for number in range(MAX_CANDIDATES + 5)]
    with pytest.raises(RequestError) as found:
        only_match("k\n", reversed(names), "keys")
    text = str(found.value)
    assert text.startswith("several keys begin with 'k\\n': k00, k01, ")
    assert f"{names[MAX_CANDIDATES - 1]}, ...; write" in text
    assert "\n" not in text
    assert names[MAX_CANDIDATES] not in text
