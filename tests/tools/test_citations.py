"""`./dev citations` fails on each kind of reference that does not resolve, and on no good one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = """# Wire

## The server's `certificate`

**Padding.** Tolerated.

## 2. Second rule

## Twice

## Twice
"""
A = "wire." + "md"  # written apart: this file is checked, too
GONE = "gone." + "md"
THREE = "AD" + "R 3"
TWELVE = "AD" + "R 12"


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.citations", "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("verdictd_py", "docs/design", "docs/adr"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "docs/design" / A).write_text(PAGE)
    (tmp_path / "docs/adr" / ("0003-readers." + "md")).write_text("# 3. Readers\n")
    return tmp_path


def source(root: Path, text: str) -> None:
    (root / "verdictd_py" / "module.py").write_text(text)


def page(root: Path, text: str) -> None:
    (root / "docs" / ("page." + "md")).write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        f'"""{A}, "Padding" and "The server\'s certificate"."""',
        f'"""Source: {A},\n    "The server\'s\n    certificate"."""',
        f"# {A} 2: a reason\n# {THREE}",
        f"# docs/design/{A}\n",
        f"# https://example.com/{GONE}\n",
    ],
)
def test_a_source_whose_citations_resolve(root: Path, text: str) -> None:
    source(root, text)
    ended = check(root)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "citations: all of 3 files resolve\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'"""{GONE}."""', f"{GONE} is not in the repository"),
        (f"# docs/{A}", f"docs/{A} is not in the repository"),
        (f'# {A}, "Errors"', f'{A} has no section "Errors"'),
        (f'# {A}, "Padding" and "Errors"', f'{A} has no section "Errors"'),
        (f"# {A} 2, 3", f"{A} has no number 3"),
        (f"# {TWELVE}", f"there is no decision {TWELVE} in docs/adr"),
    ],
)
def test_a_dangling_citation_fails(root: Path, text: str, said: str) -> None:
    source(root, f'"""Module."""\n\n{text}\n')
    ended = check(root)
    assert ended.returncode == 1
    assert ended.stderr == f"verdictd_py/module.py:3: {said}\n"


@pytest.mark.parametrize(
    "text",
    [
        f"[wire](design/{A}#the-servers-certificate), [2](design/{A}#2-second-rule)",
        f"[again](design/{A}#twice-1) and [away](https://example.com/nowhere)",
        "# Here\n[here](#here)\n```\n[no](link)\n```\n`[no](link)`",
        "`module.py`, `verdictd_py/module.py`",
    ],
)
def test_a_page_whose_links_resolve(root: Path, text: str) -> None:
    source(root, "")
    page(root, text)
    assert check(root).stderr == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gone](design/gone.html)", "the link to design/gone.html leads nowhere"),
        ("[out](../../etc)", "the link to ../../etc leads nowhere"),
        (f"[x](design/{A}#thrice)", f"design/{A} has no heading for #thrice"),
        ("[x](#thrice)", "this page has no heading for #thrice"),
        ("`verdictd_py/gone.py`", "there is no file verdictd_py/gone.py"),
    ],
)
def test_a_dangling_link_fails(root: Path, text: str, said: str) -> None:
    page(root, f"# Page\n\n{text}\n")
    ended = check(root)
    assert ended.returncode == 1
    assert ended.stderr == f"docs/page{'.md'}:3: {said}\n"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("json", '{"a": [1]}'),
        ("toml", "a = 1"),
        ("yaml", "a: [1]"),
        ("python", "a = 1"),
        ("sh", "for a in b; do c; done"),
        ("rego", "in_rack if input.fmspc in data.rack"),
        ("rego", 'package policy\n\nimport rego.v1\n\nallow if input.tee == "tdx"'),
        ("console", "$ verdict-py explain <id> > <96 hex digits>\noutput ) of any form"),
        ("text", "{"),
        ("", "{"),
    ],
)
def test_a_code_block_that_can_be_read(root: Path, language: str, text: str) -> None:
    page(root, f"# Page\n\n```{language}\n{text}\n```\n")
    assert check(root).stderr == ""


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("json", '{"a": [1]'),
        ("toml", "a = "),
        ("yaml", "a: [1"),
        ("python", "a = "),
        ("sh", "for a in b; do c"),
        ("rego", "in_rack if input.fmspc in data."),
        ("console", "$ verdict-py status )"),
        ("console", "verdict-py status"),
        ("jsn", "{}"),
    ],
)
def test_a_code_block_that_cannot_be_read_fails(root: Path, language: str, text: str) -> None:
    page(root, f"# Page\n\n```{language}\n{text}\n```\n")
    ended = check(root)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"docs/page{'.md'}:3: "), ended.stderr
    assert language in ended.stderr


def test_an_index_has_every_page(root: Path) -> None:
    page(root, "# Page\n")
    index, decision = "README." + "md", "0003-readers." + "md"
    (root / "docs" / index).write_text(f"[wire](design/{A})\n")
    (root / "docs/adr" / index).write_text("# Decisions\n")
    assert check(root).stderr.splitlines() == [
        f"docs/{index}:1: the index has no link to page{'.md'}",
        f"docs/adr/{index}:1: the index has no link to {decision}",
    ]


def test_a_test_that_the_design_names_must_exist(root: Path) -> None:
    (root / "tests").mkdir()
    (root / "tests" / "test_it.py").write_text("class TestIt:\n    def test_here(self): ...\n")
    (root / "docs/design" / A).write_text("`test_here`\n`test_gone`\n")
    ended = check(root)
    assert ended.stderr == f"docs/design/{A}:2: there is no test test_gone\n"


def test_a_command_that_a_page_names_must_exist(root: Path) -> None:
    (root / "dev").write_text("usage: ./dev COMMAND\n\n  lint      style\n  test      all tests\n")
    page(root, "`./dev lint`\n`./dev test -q`\n`./dev polish`\n")
    assert check(root).stderr == f"docs/page{'.md'}:3: ./dev has no command polish\n"


def test_each_defect_of_the_original_is_cited_by_a_test() -> None:
    page = "defects." + "md"
    headings = re.findall(r"^## (\d+)\. ", (ROOT / "docs/design" / page).read_text(), re.MULTILINE)
    texts = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    cited = {
        number
        for text in texts
        for numbers in re.findall(page + r"\s+(\d+(?:(?:, | and )\d+)*)", text)
        for number in re.findall(r"\d+", numbers)
    }
    assert headings
    assert set(headings) <= cited


def test_an_empty_folder_fails(tmp_path: Path) -> None:
    ended = check(tmp_path)
    assert (ended.returncode, ended.stderr) == (1, f"citations: {tmp_path} has no sources\n")
