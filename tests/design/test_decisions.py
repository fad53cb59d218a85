"""Each decision has its parts, and the index lists each with its status and date."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

FOLDER: Final = Path(__file__).parents[2] / "docs" / "adr"
PAGES: Final = sorted(FOLDER.glob("[0-9]*"))
HEAD: Final = re.compile(
    r"# (?P<title>\d+\. .+)\n\n"
    r"\*\*Status:\*\* (?P<status>accepted|superseded by \[ADR \d+\]\(\S+\))\. "
    r"\*\*Date:\*\* (?P<date>\d{4}-\d\d-\d\d)\.\n"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name[:4]))
def test_a_decision_has_its_parts(page: Path) -> None:
    text = page.read_text()
    head = HEAD.match(text)
    assert head is not None
    assert head["title"].startswith(f"{int(page.name[:4])}. ")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Context", "Decision", "Alternatives", "Consequences"]
    status = head["status"].split(" ")[0]
    row = f"| [{head['title']}]({page.name}) | {status} | {head['date']} |"
    assert row in (FOLDER / "README.md").read_text().splitlines()


def test_the_index_lists_no_other() -> None:
    rows = re.findall(r"^\| \[", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == len(PAGES) > 0
