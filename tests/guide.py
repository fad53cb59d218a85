"""The guide's text, whose log lines are real requests and answers. Read in place."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

_GUIDE = (
    Path(__file__).resolve().parents[2]
    / "shared"
    / "seeds"
    / "tdx-confidential-containers-guide.zh.txt"
)


def from_guide(pattern: str) -> str:
    """What the group of `pattern` matches first in the guide."""
    if not _GUIDE.exists() and not os.environ.get("CI"):
        pytest.skip("the guide's text is not beside this checkout")
    found = re.search(pattern, _GUIDE.read_text(encoding="utf-8"))
    assert found is not None
    return found[1]
