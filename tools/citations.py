"""Verify that what the sources and pages refer to exists in the repository.

Usage: citations.py [--root DIR]   exit status 1 where something does not resolve.

The syntax of the code blocks of pages is checked as well (`codeblocks.py`), and that the index of
the documentation (`docs/README.md`) has every page. Six kinds of reference are checked:

1. A Markdown file named in a source or page: `wire-rcar.md`, `docs/guide.md`. It resolves relative
   to the file that names it, to the root, or to one of the folders of documentation.
2. A part of that file: `wire-rcar.md, "Errors"` is the beginning of a heading or of a bold phrase
   there, `defects.md 9` a numbered heading, `ADR 4` a file `docs/adr/0004-*.md`.
3. A link between pages and its anchor, spelled as forges derive it from the heading.
4. A source file that a page names: `ratstls/session.py` is below the root or `verdictd_py/`.
5. A test that a page of the design names: `test_a_pinned_measurement_decides` is in `tests/`.
6. A command of `./dev` that a page names: it is in the list that `./dev help` prints.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tools.codeblocks import broken_blocks

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = (
    "verdictd_py",
    "tests",
    "docs",
    "policies",
    "protos",
    "tools",
    "keys",
    "deploy",
    "examples",
)
SUFFIXES: Final = frozenset({".py", ".md", ".rego", ".proto", ".sh", ".toml", ".yaml"})
DATA: Final = ("tests/vectors/", "tests/inputs/", "verdictd_py/_generated/")
"""Folders whose contents are no text of the project's; their README.md is."""
PAGES: Final = ("", "docs", "docs/design", "docs/reference", "docs/adr")
"""Folders in which a bare file name is looked up, after that of the citing file."""
IN_THE_WHEEL: Final = "verdictd_py/_data/"
"""Where a wheel has `policies/` and `keys/` of the root."""

_CITED: Final = re.compile(r"(?<![\w./-])((?:[\w.-]+/)*[\w-]+\.md)\b(?!-)")
_SECTIONS: Final = re.compile(r',\s+(?:the end of )?"([^"]+)"(?:\s+and\s+"([^"]+)")?')
_NUMBERS: Final = re.compile(r"[\s(]+(\d+(?:(?:, | and )\d+)*)\b(?! (?:times|bytes))")
_ADR: Final = re.compile(r"\bADR (\d{1,4})\b")
_LINK: Final = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^()\s>]+)>?(?: \"[^\"]*\")?\)")
_HEADING: Final = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_BOLD: Final = re.compile(r"\*\*(.+?)\*\*")
_ANCHOR: Final = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
_FENCE: Final = re.compile(r"^( *)(```+|~~~+).*?^\1\2[^\n]*$", re.MULTILINE | re.DOTALL)
_CODE: Final = re.compile(r"`[^`\n]+`")
_MODULE: Final = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.py)`")
_TEST: Final = re.compile(r"`(test_\w+)`")
_DEFINED: Final = re.compile(r"^ *(?:async )?def (test_\w+)", re.MULTILINE)
_COMMAND: Final = re.compile(r"\./dev ([a-z]+)")
_USAGE: Final = re.compile(r"^  ([a-z]+) +\w", re.MULTILINE)
_LINE_START: Final = re.compile(r"\n[ \t]*(?:#|//)?[ \t]*")


def problems(root: Path) -> Iterator[str]:
    """Yield `path:line: what does not resolve` for each file of the repository at `root`."""
    for path in files(root):
        text = path.read_text(encoding="utf-8")
        found = [*citations(root, path, text), *decisions(root, text)]
        if path.suffix == ".md":
            found += [*links(root, path, text)]
            found += [*commands(root, text), *broken_blocks(text), *not_listed(root, path, text)]
            if path.name != "CHANGELOG.md":  # it tells of files that were
                found += [*modules(root, path, text), *named_tests(root, path, text)]
        for offset, problem in sorted(found):
            line = text.count("\n", 0, offset) + 1
            yield f"{path.relative_to(root)}:{line}: {problem}"


def files(root: Path) -> list[Path]:
    """Return the files that are checked, in order."""
    below = [path for name in SOURCES for path in (root / name).rglob("*")]
    top = [*root.glob("*.md"), *(root / name for name in ("dev", ".ci/run", "Containerfile"))]
    return sorted(path for path in (*below, *top) if path.is_file() and _is_text(root, path))


def _is_text(root: Path, path: Path) -> bool:
    name = path.relative_to(root).as_posix()
    if name.startswith(DATA) and path.name != "README.md":
        return False
    return path.suffix in SUFFIXES or name in {"dev", ".ci/run", "Containerfile"}


def citations(root: Path, path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield offset and problem of each cited file, section or number that does not exist."""
    # Continuation lines of a docstring or comment are joined, and offsets stay what they are.
    flat = _LINE_START.sub(lambda match: " " * len(match[0]), text)
    for match in _CITED.finditer(flat):
        if (
            flat[match.start() - 3 : match.start()] == "://"
            or "://" in flat[flat.rfind(" ", 0, match.start()) + 1 : match.start()]
        ):
            continue
        target = resolve(root, path, match[1])
        if target is None:
            yield match.start(), f"{match[1]} is not in the repository"
            continue
        rest = flat[match.end() :].removeprefix("`")
        for section in _groups(_SECTIONS.match(rest)):
            section = re.sub(r"\s+", " ", section)  # noqa: PLW2901  # as the heading has it
            if not any(heading.startswith(section) for heading in sections(target)):
                yield match.start(), f'{match[1]} has no section "{section}"'
        for numbers in _groups(_NUMBERS.match(rest)):
            for number in re.findall(r"\d+", numbers):
                if not any(heading.startswith(f"{number}. ") for heading in sections(target)):
                    yield match.start(), f"{match[1]} has no number {number}"


def decisions(root: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield offset and problem of each cited decision that does not exist."""
    for match in _ADR.finditer(text):
        if not any((root / "docs/adr").glob(f"{int(match[1]):04}-*.md")):
            yield match.start(), f"there is no decision {match[0]} in docs/adr"


def links(root: Path, path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield offset and problem of each Markdown link whose file or anchor does not exist."""
    for match in _LINK.finditer(_blanked(text, _FENCE, _CODE)):
        name, _, anchor = match[1].partition("#")
        if re.match(r"[a-z]+:", name):
            continue
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or not target.is_relative_to(root):
            yield match.start(), f"the link to {match[1]} leads nowhere"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            yield match.start(), f"{name or 'this page'} has no heading for #{anchor}"


def modules(root: Path, path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield offset and problem of each source file that a page names and that does not exist."""
    for match in _MODULE.finditer(text):
        places = (path.parent, root, root / "verdictd_py")
        if not any((place / match[1]).exists() for place in places):
            yield match.start(), f"there is no file {match[1]}"


def named_tests(root: Path, path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield offset and problem of each test that a page names and nothing defines.

    Only the pages of the design and the threat model name tests.
    """
    if path.parent != root / "docs" / "design" and path != root / "docs" / "threat-model.md":
        return
    for match in _TEST.finditer(text):
        if match[1] not in defined_tests(root):
            yield match.start(), f"there is no test {match[1]}"


@cache
def defined_tests(root: Path) -> frozenset[str]:
    """Return the names of all tests."""
    sources = (path.read_text(encoding="utf-8") for path in (root / "tests").rglob("*.py"))
    return frozenset(match[1] for text in sources for match in _DEFINED.finditer(text))


def commands(root: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield offset and problem of each command of `./dev` that its help does not list."""
    for match in _COMMAND.finditer(text):
        if match[1] not in {"help", *listed_commands(root)}:
            yield match.start(), f"./dev has no command {match[1]}"


@cache
def listed_commands(root: Path) -> tuple[str, ...]:
    """Return the commands of `./dev`."""
    script = root / "dev"
    return tuple(_USAGE.findall(script.read_text(encoding="utf-8"))) if script.is_file() else ()


def not_listed(root: Path, path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield each page in the folder of an index (`docs/**/README.md`) to which it has no link."""
    if path.name != "README.md" or root / "docs" not in path.parents:
        return
    linked = {match[1].partition("#")[0] for match in _LINK.finditer(text)}
    below = "**/*.md" if path.parent == root / "docs" else "*.md"
    for page in sorted(path.parent.glob(below)):
        name = page.relative_to(path.parent)
        has_own_index = (page.parent / "README.md").is_file() and page.parent != path.parent
        if page != path and not has_own_index and name.as_posix() not in linked:
            yield 0, f"the index has no link to {name.as_posix()}"


def resolve(root: Path, path: Path, name: str) -> Path | None:
    """Return the file that `path` cites as `name`, None where there is none."""
    name = name.removeprefix(IN_THE_WHEEL)
    for folder in (path.parent, *(root / page for page in PAGES)):
        if (folder / name).is_file():
            return folder / name
    return None


@cache
def sections(page: Path) -> tuple[str, ...]:
    """Return the headings and bold phrases of a page, as plain text."""
    text = _blanked(page.read_text(encoding="utf-8"), _FENCE)
    return tuple(
        re.sub(r"[`*]", "", found[1]).strip()
        for pattern in (_HEADING, _BOLD)
        for found in pattern.finditer(text)
    )


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page, as GitHub, GitLab and Gitea make them from headings."""
    text = _blanked(page.read_text(encoding="utf-8"), _FENCE)
    seen: Counter[str] = Counter()
    found = {match[1] for match in _ANCHOR.finditer(text)}
    for match in _HEADING.finditer(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(found)


def _blanked(text: str, *patterns: re.Pattern[str]) -> str:
    """Return `text` with what the patterns match replaced by spaces; line breaks stay."""
    for pattern in patterns:
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return text


def _groups(match: re.Match[str] | None) -> tuple[str, ...]:
    return () if match is None else tuple(group for group in match.groups() if group)


def main(argv: list[str]) -> int:
    """Print each problem to standard error and return the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT)
    root = parser.parse_args(argv).root.resolve()
    found = [*problems(root)]
    for problem in found:
        print(problem, file=sys.stderr)
    if not files(root):
        print(f"citations: {root} has no sources", file=sys.stderr)
        return 1
    if not found:
        print(f"citations: all of {len(files(root))} files resolve")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
