"""Pages of docs/install: at most ten commands from nothing to a released key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tools.systemd.pages import commands_of
from tools.walk.__main__ import PAGES
from tools.walk.pages import Step, steps

INSTALL: Final = Path(__file__).resolve().parents[2] / "docs" / "install"
FIRST_HOUR: Final = ("debian", "rhel", "packages", "podman", "air-gap")
WALKED: Final = ("debian", "rhel", "podman", "air-gap")
"""Pages that `./dev walk` runs; `./dev systemd` runs the one for packages."""
KEY: Final = re.compile(r"guest .*\bkey default/key/1")


def to_the_key(page: str) -> list[Step]:
    """Return the commands of a page up to the one that prints the key, run in CI or not."""
    text = re.sub(r"<!-- walk skip.*?-->\n", "", (INSTALL / f"{page}.md").read_text("utf-8"))
    found: list[Step] = []
    for step in steps(text):
        if step.kind == "command":
            found.append(step)
            if KEY.search(step.text):
                return found
    raise AssertionError(f"{page} releases no key")


@pytest.mark.parametrize("page", FIRST_HOUR)
def test_ten_commands_are_enough(page: str) -> None:
    assert len(to_the_key(page)) <= 10


def test_pages_that_can_run_are_run_word_for_word() -> None:
    assert {f"docs/install/{page}.md" for page in WALKED} <= set(PAGES)
    for page in WALKED:
        run = list(steps((INSTALL / f"{page}.md").read_text("utf-8")))
        released = [step for step in run if step.kind == "command" and KEY.search(step.text)]
        assert released, page


def test_commands_that_need_systemd_are_found() -> None:
    """`./dev systemd` runs them in a booted Debian."""
    assert len(commands_of("docs/install/debian.md", "As a service")) > 8
    assert len(commands_of("docs/install/packages.md", "From nothing to a released key")) == 5
    assert len(commands_of("docs/install/packages.md", "As a service")) == 4


@pytest.mark.parametrize("page", FIRST_HOUR)
def test_each_page_leads_to_production(page: str) -> None:
    text = (INSTALL / f"{page}.md").read_text("utf-8")
    assert "](production." in text
    assert f"({page}.md)" in (INSTALL / "README.md").read_text("utf-8")
