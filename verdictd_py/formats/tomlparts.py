"""Check that a TOML document can be parsed in little time.

`tomllib` takes quadratic time for keys with many dots: `a.a.a...` takes 24 seconds at 256 KiB. This
check takes linear time, in steps of at most a few milliseconds: a single call of a library stalls
other threads.

Source: TOML 1.0, "Comment", "Keys" and "String".
"""

from __future__ import annotations

import re
from typing import Final

MAX_WORD_CHARACTERS: Final = 256
"""Maximum length of a bare key, a number or a date. Python reads a number of a MiB in one step."""

_STEP: Final = 16 * 1024
_BETWEEN_STRINGS: Final = re.compile(r"""[^"'#]*+""")
_BETWEEN_KEYS: Final = re.compile(r"[\n,=\[\]{}]")

# Each group is repeated at most 256 times for each match, which bounds the time of one step.
_REST: Final = {
    '"""': re.compile(r'[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+){0,256}', re.DOTALL),
    "'''": re.compile(r"[^']*+(?:'(?!'')[^']*+){0,256}"),
    '"': re.compile(r'[^"\\\n]*+(?:\\.[^"\\\n]*+){0,256}'),
    "'": re.compile(r"[^'\n]*+"),
}
"""Characters of a string up to its closing quotes, by the quotes."""


def exceed(document: str, maximum: int, *, dots: int) -> bool:
    """Return whether a document has too many lines, keys, values, strings and brackets.

    Numbers and dates contain one or two dots too.

    Args:
        maximum: the maximum number of parts.
        dots: the maximum number of dots in one part.

    Raises:
        ValueError: a part has more dots or too many characters.
    """
    at = parts = seen = 0
    while at < len(document):
        match = _BETWEEN_STRINGS.match(document, at, at + _STEP)
        assert match is not None  # noqa: S101  # it matches an empty text
        first, *others = _BETWEEN_KEYS.split(match[0])
        parts += len(others)
        if parts >= maximum:
            return True
        seen = _dots(first, dots, seen)
        for part in others:
            seen = _dots(part, dots)
        at = match.end()
        if at < match.endpos and at < len(document):
            at = _after(document, at)
            parts += 1
    return False


def _dots(part: str, maximum: int, seen: int = 0) -> int:
    """Return the number of dots of a part, of which `seen` were counted before.

    Raises:
        ValueError: there are too many, or the part is too long.
    """
    seen += part.count(".")
    if seen > maximum:
        raise ValueError("nested too deep")
    if len(part) > MAX_WORD_CHARACTERS and len(part.strip()) > MAX_WORD_CHARACTERS:
        raise ValueError("a key or a number is too long")
    return seen


def _after(document: str, at: int) -> int:
    """Return the offset after the comment or the string that begins at `at`.

    A string without closing quotes extends as far as it can: searching for its end again after
    each quote would take quadratic time.
    """
    if document[at] == "#":
        end = document.find("\n", at)
        return len(document) if end < 0 else end
    quote = document[at]
    long = document.startswith(3 * quote, at)
    quotes = 3 * quote if long else quote
    at += len(quotes)
    while True:
        match = _REST[quotes].match(document, at)
        assert match is not None  # noqa: S101  # it matches an empty text
        if document.startswith(quotes, match.end()):
            at = match.end() + len(quotes)
            return _skip(document, at, quote) if long else at
        if match.end() == at:  # the end of the line or of the document
            return at if not long else len(document)
        at = match.end()


def _skip(document: str, at: int, quote: str) -> int:
    """Skip the last two quotes of a long string, which may precede the closing ones."""
    end = at
    while end < at + 2 and document.startswith(quote, end):
        end += 1
    return end
