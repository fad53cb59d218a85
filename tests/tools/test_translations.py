"""`./dev translations` fails if a translation differs from its original in structure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MORE = "more." + "md"  # written apart: the citations of this file are checked, too
OTHER = "other." + "md"
PAGE = "page." + "md"
ORIGINAL = f"""# A page

## Install

Read [more]({MORE}).

<!-- walk skip: no network -->
```console
$ pip install .
```

| a | b |
| --- | --- |
| 1 | 2 |
"""
TRANSLATION = ORIGINAL.replace("A page", "一页").replace("Read [more]", "阅读[更多]")


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "translations.py"), "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_pages_of_the_project_follow_their_originals() -> None:
    assert check(ROOT).stderr == ""


def test_a_translation_that_follows(tmp_path: Path) -> None:
    (tmp_path / PAGE).write_text(ORIGINAL, encoding="utf-8")
    (tmp_path / "page.zh.md").write_text(TRANSLATION, encoding="utf-8")
    assert check(tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("## Install", "### Install", "heading 2: '###' instead of '##'"),
        ("$ pip install .", "$ pip install x", "code block 1: '```console\\n$ pip install x"),
        ("no network", "no", "note for ./dev walk 1: '<!-- walk skip: no -->' instead of"),
        ("| 1 | 2 |\n", "", "table 1: '2 rows' instead of '3 rows'"),
        (MORE, OTHER, f"link 1: '{OTHER}' instead of '{MORE}'"),
    ],
)
def test_a_translation_that_differs(tmp_path: Path, old: str, new: str, problem: str) -> None:
    (tmp_path / PAGE).write_text(ORIGINAL, encoding="utf-8")
    (tmp_path / "page.zh.md").write_text(TRANSLATION.replace(old, new), encoding="utf-8")
    ended = check(tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"page.zh.md: {problem}")


def test_a_translation_without_an_original(tmp_path: Path) -> None:
    (tmp_path / "page.zh.md").write_text(TRANSLATION, encoding="utf-8")
    ended = check(tmp_path)
    assert (ended.returncode, ended.stderr) == (
        1,
        f"page.zh.md: it translates {PAGE}, which does not exist\n",
    )
