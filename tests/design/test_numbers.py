"""Numbers that pages of the design repeat are those of the code."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from verdictd_py.broker.handshakes import SESSION_LIFETIME
from verdictd_py.config import Settings

DESIGN: Final = Path(__file__).parents[2] / "docs" / "design"


def default(name: str) -> float:
    """Return the default of a setting."""
    return float(Settings.model_fields[name].default)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("handshake_timeout", r"handshake (\d+) s"),
        ("appraisal_timeout", r"appraisal (\d+) s"),
        ("request_timeout", r"one request (\d+) s"),
        ("idle_timeout", r"idle (\d+) s"),
        ("max_connections", r"(\d+)\s+connections"),
    ],
)
def test_limits_of_the_attested_connection(name: str, sentence: str) -> None:
    for page in ("wire-rats-tls.md", "states.md"):
        found = re.findall(sentence, (DESIGN / page).read_text())
        assert found, page
        assert {float(number) for number in found} == {default(name)}, page


def test_the_lifetime_of_a_session() -> None:
    found = re.findall(r"(\d+) minutes", (DESIGN / "states.md").read_text())
    assert found
    assert {timedelta(minutes=int(number)) for number in found} == {SESSION_LIFETIME}
