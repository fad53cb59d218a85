"""Verify that a page in Chinese follows its English original.

Usage: translations.py [--root DIR]   exit status 1 if a translation differs in structure.

A page with the suffix `.zh.md` translates the page of the same name and folder. The levels of the
headings, the code blocks, the notes for `./dev walk` and the numbers of rows of the tables must be
the same, in the same order, and so must the set of the links' targets (an anchor within the page is
translated with its heading).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SUFFIX: Final = ".zh.md"

_FENCE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_NOTE: Final = re.compile(r"^ *<!-- walk .*?-->$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^(#{1,6}) +(.+)$", re.MULTILINE)
_ROW: Final = re.compile(r"(?:^\|.*\|$\n?)+", re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^()\s]+)\)")


def problems(root: Path) -> Iterator[str]:
    """Yield `page: difference` for each translation below `root` that differs."""
    for page in sorted([*root.glob(f"*{SUFFIX}"), *(root / "docs").rglob(f"*{SUFFIX}")]):
        original = page.with_name(page.name.removesuffix(SUFFIX) + ".md")
        name = page.relative_to(root)
        if not original.is_file():
            yield f"{name}: it translates {original.name}, which does not exist"
            continue
        texts = [path.read_text(encoding="utf-8") for path in (original, page)]
        for what, parts in _PARTS.items():
            if difference := _difference(*(parts(text) for text in texts)):
                yield f"{name}: {what} {difference}"


def _difference(original: list[str], translated: list[str]) -> str:
    """Return the first difference; empty if there is none."""
    for number, (ours, theirs) in enumerate(zip_longest(original, translated), start=1):
        if ours != theirs:
            return f"{number}: {_short(theirs)} instead of {_short(ours)}"
    return ""


def _short(part: str | None) -> str:
    return "nothing" if part is None else repr(part if len(part) <= 120 else part[:117] + "...")


def _code(text: str) -> list[str]:
    return _FENCE.findall(text)


def _notes(text: str) -> list[str]:
    return _NOTE.findall(text)


def _headings(text: str) -> list[str]:
    return [level for level, _ in _HEADING.findall(_FENCE.sub("", text))]


def _tables(text: str) -> list[str]:
    return [f"{table.count(chr(10))} rows" for table in _ROW.findall(_FENCE.sub("", text) + "\n")]


def _links(text: str) -> list[str]:
    """Return the targets of the links in alphabetical order, as in English.

    The order of the words of a sentence may differ, and a link may lead to a translated page.
    """
    targets = _LINK.findall(_FENCE.sub("", text))
    return sorted("#" if t.startswith("#") else t.replace(SUFFIX, ".md") for t in targets)


_PARTS: Final[dict[str, Callable[[str], list[str]]]] = {
    "heading": _headings,
    "code block": _code,
    "note for ./dev walk": _notes,
    "table": _tables,
    "link": _links,
}


def main() -> int:
    """Print the differences; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the repository")
    found = list(problems(parser.parse_args().root))
    sys.stderr.writelines(f"{problem}\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
