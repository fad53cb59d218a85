"""Paths of the committed test data: real evidence, and files that operators and guests have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parents[1]
VECTORS: Final = TESTS / "vectors"
INPUTS: Final = TESTS / "inputs"


def vector(name: str) -> Path:
    """Return the path of a file or folder below `tests/vectors/`.

    Raises FileNotFoundError if it does not exist: a test is never skipped for a missing vector.
    """
    return _existing(VECTORS / name)


def input_file(name: str) -> Path:
    """Return the path of a file or folder below `tests/inputs/`.

    Raises FileNotFoundError if it does not exist.
    """
    return _existing(INPUTS / name)


def from_guide(pattern: str) -> str:
    """Return what the first group of `pattern` matches in the guide's commands and log lines."""
    text = vector("guide/commands.txt").read_text() + vector("guide/log.txt").read_text()
    match = re.search(pattern, text)
    assert match is not None, f"the guide's excerpts do not match {pattern}"
    return match[1]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path.relative_to(TESTS.parent)} is not in the repository")
    return path
