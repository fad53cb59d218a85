"""Pages, docstrings and messages use the words of the list (words.md), as far as patterns tell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("docs", "policies", "keys", "examples", "protos", "deploy", "verdictd_py")
SUFFIXES: Final = frozenset({".md", ".py", ".rego", ".proto", ".yaml", ".html"})
EXEMPT: Final = ("docs/design/words.md", "verdictd_py/_generated/", "CHANGELOG.md")
"""The list itself, generated code, and a history whose entries stay as they were written."""

INSTEAD: Final = {
    r"(?<!there )(?:is|are|was|were) no (?!longer\b|more\b)\w+": "'is not a ...', 'is not ...'",
    r"\b(?:is|are|was|were) over\b(?! \d| the\b| a\b)": "'expired', 'has ended'",
    r"\bout of time\b": "'expired'",
    r"\bmend(?:s|ed|ing)?\b": "'fix'",
    r"\b(?:nobody|anybody|whoever|no one)\b": "the caller, the guest, the operator, 'no client'",
    r"\banew\b": "'again'",
    r"\b(?:is|are|be|was|were) told\b": "'receives', 'is disclosed', 'reported'",
    r"\b(?:kept back|let go|given up)\b": "'redacted', 'released', 'discarded'",
    r"\blets? (?:in|him in|it in|them in)\b|\bcomes? in\b": "'accept', 'is accepted'",
    r"\ba hall\b|\bin the clothes of\b|\ba fault of ours\b": "'an air-gapped site', 'encoded as'",
    r"\bits like\b": "'similar', 'of the same type'",
    r"\broom for\b": "'capacity for'",
    r"\bbeside\b": "'next to', 'in addition to'",
    r"\bruns? back\b": "'decreases', 'is rolled back', 'returns'",
    r"\bstrangers?\b": "'unauthenticated client', 'unattested peer'",
    r"\bheard\b": "'received'",
    r"(?<!not )(?<!not-)(?<!`)\bjudge[sd]?\b(?![:`]| =)": "'appraise' (the wire: 'not judged')",
}
"""Pattern of a phrase -> what to write."""

_PATTERNS: Final = {re.compile(pattern, re.IGNORECASE): text for pattern, text in INSTEAD.items()}


def problems(text: str) -> Iterator[str]:
    """Yield each forbidden phrase of a line, with the words to use."""
    for pattern, instead in _PATTERNS.items():
        for match in pattern.finditer(text):
            yield f"{match[0]!r}: write {instead}"


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that readers see: of Python, the lines of its texts."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), start=1)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from enumerate(node.value.splitlines(), start=node.lineno)


def files() -> list[Path]:
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    found = [path for path in (*ROOT.glob("*.md"), *below) if path.suffix in SUFFIXES]
    return sorted(p for p in found if not p.relative_to(ROOT).as_posix().startswith(EXEMPT))


@pytest.mark.parametrize(
    "text",
    [
        "An internal error is no verdict.",
        "The grace is over.",
        "to mend it",
        "Whoever has a token",
        "The guest is told a code.",
        "a hall without a network",
        "lets them in",
        "a guest that was judged",
        "No guest is judged.",
    ],
)
def test_a_forbidden_phrase_is_noticed(text: str) -> None:
    assert list(problems(text))


@pytest.mark.parametrize(
    "text",
    [
        "there is no key",
        "it is no longer used",
        "recommended",
        "not judged: collateral-unavailable",
        "`guest.not-judged`",
        "the limit is over 64 KiB",
        "over the network",
    ],
)
def test_other_phrases_are_not(text: str) -> None:
    assert not list(problems(text))


def test_pages_docstrings_and_messages_use_the_words_of_the_list() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {problem}"
        for path in files()
        for number, text in lines(path)
        for problem in problems(text)
    ]
    assert not found, "\n".join(found)
