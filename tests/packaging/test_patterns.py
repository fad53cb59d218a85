"""Patterns mean the same to every supported Python.

Before Python 3.11.5, a possessive quantifier of a group, and an atomic group, can match wrongly
(gh-106052). Debian 12 has 3.11.2. There the broker refused requests that contain strings.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import verdictd_py

SOURCES = sorted(Path(verdictd_py.__file__).parent.rglob("*.py"))
UNSAFE = re.compile(r"\)(?:[*+?]|\{[^}\n]*\})\+|\(\?>")


def test_no_pattern_has_a_possessive_or_atomic_group() -> None:
    found = [
        f"{file.name}:{number}"
        for file in SOURCES
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if UNSAFE.search(line)
    ]
    assert not found


@pytest.mark.parametrize("pattern", [r"(?:ab)*+", r"(a){0,3}+", r"(?>ab)", r"(?:a)++"])
def test_unsafe_patterns_are_found(pattern: str) -> None:
    assert UNSAFE.search(pattern)


@pytest.mark.parametrize("pattern", [r"[^a]*+", r"(?:ab)*", r"(?:[ab]++|c)*", r"(a)+"])
def test_other_patterns_are_not(pattern: str) -> None:
    assert not UNSAFE.search(pattern)
