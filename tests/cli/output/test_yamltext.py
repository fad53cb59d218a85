"""Data as YAML: the same values for every reader."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.cli.output.yamltext import to_yaml

yaml = pytest.importorskip("yaml")

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.sampled_from(["true", "No", "~", "1", "1e3", "2026-11-27", "0x1f", "", "- a", "a: b"]),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text("ab:#- ", max_size=4), inner)),
    max_leaves=20,
)


@given(VALUES)
def test_the_values_are_read_again(value: object) -> None:
    assert yaml.safe_load(to_yaml(value)) == value


def test_the_layout_is_that_of_a_person() -> None:
    data = {"name": "a", "list": [{"x": 1, "y": []}, [2, 3]], "none": None, "text": "two words"}
    assert to_yaml(data) == (
        'name: a\nlist:\n  - x: 1\n    "y": []\n  - - 2\n    - 3\nnone: null\ntext: "two words"\n'
    )
