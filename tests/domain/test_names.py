"""Parsing of names from arbitrary text."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from verdictd_py.domain.names import (
    LEGACY_RESOURCES,
    MAX_SEGMENT_BYTES,
    KeyId,
    Name,
    ResourcePath,
    parse_resource_name,
)
from verdictd_py.errors import RequestError

ALPHABET = string.ascii_letters + string.digits + "_-."
SEGMENTS = st.text(ALPHABET, min_size=1, max_size=MAX_SEGMENT_BYTES).filter(
    lambda text: not text.startswith(".")
)
NEARLY = st.text(st.sampled_from("ab./\\\0%~ \n-_é\uff0e"), max_size=12)


@given(st.text() | NEARLY)
@example("../../../etc/shadow")
@example("a/../b")
@example("a\n")
@example("")
def test_no_text_yields_a_segment_that_is_a_path(text: str) -> None:
    """defects.md 1: every text yields a harmless name or a RequestError."""
    for kind in (Name, KeyId, ResourcePath):
        try:
            name = kind.parse(text)
        except RequestError:
            continue
        assert type(name) is kind
        assert str(name) == text
        assert len(name.segments) in ((3,) if kind is ResourcePath else (1, 3))
        for segment in name.segments:
            assert segment not in ("", ".", "..")
            assert not segment.startswith(".")
            assert not set(segment) - set(ALPHABET)
            assert len(segment.encode()) <= MAX_SEGMENT_BYTES


@given(st.lists(SEGMENTS, min_size=1, max_size=1) | st.lists(SEGMENTS, min_size=3, max_size=3))
def test_every_valid_name_is_accepted(segments: list[str]) -> None:
    name = KeyId.parse("/".join(segments))
    assert name.segments == tuple(segments)
    assert KeyId.parse(str(name)) == name
    assert hash(KeyId.parse(str(name))) == hash(name)


@pytest.mark.parametrize("length", [1, MAX_SEGMENT_BYTES, MAX_SEGMENT_BYTES + 1])
def test_the_longest_segment(length: int) -> None:
    if length <= MAX_SEGMENT_BYTES:
        assert KeyId.parse("a" * length).segments == ("a" * length,)
    else:
        with pytest.raises(RequestError):
            KeyId.parse("a" * length)


def test_a_resource_has_three_segments() -> None:
    with pytest.raises(RequestError, match="<repository>/<type>/<tag>"):
        ResourcePath.parse("one")
    assert str(ResourcePath.parse("a/b/c")) == "a/b/c"


@pytest.mark.parametrize(("name", "path"), LEGACY_RESOURCES.items())
def test_both_names_of_a_resource_mean_the_same(name: str, path: ResourcePath) -> None:
    assert parse_resource_name(name) == parse_resource_name(str(path)) == path


@pytest.mark.parametrize("text", ["policy", "Policy ", "Nothing", "../Policy", "a/b"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(RequestError):
        parse_resource_name(text)
