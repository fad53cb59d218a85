"""Reader of YAML that consists of nested mappings and scalars, such as lookaside configurations.

It reads what people write: one member a line, indentation, quotes and comments, or JSON, which is
YAML too. What it does not read is either an error of YAML, or reported as unsupported; it never
returns another value than a complete YAML parser (ADR 19).
"""

from __future__ import annotations

import json
import re
from typing import Final, TypeAlias

from verdictd_py.encoding import JsonValue, decode_object
from verdictd_py.errors import RequestError

Value: TypeAlias = "str | int | dict[str, Value] | None"
"""A scalar that is neither text nor null (a number, a truth value) is 0."""

MAX_DEPTH: Final = 20
MAX_LINES: Final = 20_000
MAX_LINE_CHARACTERS: Final = 2000

_BOM: Final = "\ufeff"
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_NOT_TEXT: Final = re.compile(  # YAML 1.2, 10.3.2: truth values and numbers of the core schema
    r"true|True|TRUE|false|False|FALSE|[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+"
    r"|[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
# The patterns below must take linear time: none repeats white space before another part.
_PLAIN_KEY: Final = re.compile(r"(?P<key>[^\s:#][^:#]*(?:[:#][^\s:#][^:#]*)*?):(?=[ \t]|$)")
_SINGLE: Final = re.compile(r"'((?:[^']|'')*)'")
_DOUBLE: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_COMMENT_IN_KEY: Final = re.compile(r"[ \t]#")
_COMMENT: Final = re.compile(r"(?:^|(?<=[ \t]))#.*$")
_INDICATORS: Final = {
    "[": "flow sequences",
    "{": "flow mappings",
    "&": "anchors",
    "!": "tags",
    "|": "block scalars",
    ">": "block scalars",
    "?": "keys in the long form",
}


class NotMappings(Exception):
    """The content is not YAML, or no mapping, for the reason in the text."""


class Unsupported(Exception):
    """The content may be valid, and has a part that this module does not read."""


def parse(content: bytes, *, max_line_characters: int = MAX_LINE_CHARACTERS) -> dict[str, Value]:
    """Return the mapping of a YAML document; an empty document is an empty mapping.

    Args:
        content: any bytes, whose size the caller has limited.
        max_line_characters: maximum length of a line. The default is for contents of clients;
            a longer line can take longer than linear time.

    Raises:
        NotMappings: it is not YAML, or not a mapping.
        Unsupported: see there.
    """
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Unsupported("it is UTF-16 text")
    try:
        text = content.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise NotMappings(f"it is not UTF-8, see byte {error.start}") from None
    if text.lstrip().startswith("{"):
        return _json(text)
    return _Reader(text, max_line_characters).document()


def _json(text: str) -> dict[str, Value]:
    try:
        return {name: _of_json(value) for name, value in decode_object(text.encode(), "it").items()}
    except RequestError:
        raise Unsupported("it uses flow mappings") from None


def _of_json(value: JsonValue) -> Value:
    if isinstance(value, dict):
        return {name: _of_json(inner) for name, inner in value.items()}
    return value if value is None or isinstance(value, str) else 0


class _Reader:
    """Reader of one document, line by line."""

    def __init__(self, text: str, max_characters: int) -> None:
        self._lines: list[tuple[int, int, str]] = []  # number, indentation, text
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if len(lines) > MAX_LINES or max(map(len, lines)) > max_characters:
            raise Unsupported(
                f"it has more than {MAX_LINES} lines, or one of more than {max_characters} "
                "characters"
            )
        for number, line in enumerate(lines, 1):
            stripped = line.lstrip(" ")
            if stripped.startswith("\t") and stripped.strip():
                raise NotMappings(f"line {number} is indented with a tab; use spaces")
            stripped = stripped.rstrip()
            if stripped and not stripped.lstrip().startswith("#"):
                self._lines.append((number, len(line) - len(line.lstrip(" ")), stripped))
        self._text = lines
        self._at = 0

    def document(self) -> dict[str, Value]:
        if self._lines and self._lines[0][2] == "---":
            self._at = 1
        if self._lines and self._lines[-1][2] == "...":
            self._lines.pop()
        for number, indent, line in self._lines[self._at :]:
            if indent == 0 and line.startswith("%"):
                raise Unsupported(f"line {number} is a directive")
            if indent == 0 and line.startswith(("---", "...")):
                raise NotMappings(f"line {number} begins another document")
        if self._at == len(self._lines):
            return {}
        mapping = self._mapping(self._lines[self._at][1], 0)
        if self._at < len(self._lines):
            raise NotMappings(f"line {self._lines[self._at][0]} is indented differently")
        return mapping

    def _mapping(self, indent: int, depth: int) -> dict[str, Value]:
        if depth > MAX_DEPTH:
            raise Unsupported(f"it is nested deeper than {MAX_DEPTH} levels")
        members: dict[str, Value] = {}
        while self._at < len(self._lines):
            number, column, line = self._lines[self._at]
            if column < indent:
                return members
            if column > indent:
                raise NotMappings(f"line {number} is indented differently")
            key, rest = self._key(line, number)
            if key in members:
                raise NotMappings(f"line {number} has a key for the second time")
            self._at += 1
            members[key] = self._value(rest, number, indent, depth)
        return members

    def _value(self, rest: str, number: int, indent: int, depth: int) -> Value:
        """Return the value behind a key: in the same line, or the mapping below it."""
        below = self._lines[self._at] if self._at < len(self._lines) else None
        is_nested = below is not None and below[1] > indent
        if not rest:
            return self._mapping(below[1], depth + 1) if below and is_nested else None
        value = self._scalar(rest, number)
        if is_nested:
            if below and _PLAIN_KEY.match(below[2]):
                raise NotMappings(f"line {below[0]} is a member of a value that is not a mapping")
            raise Unsupported(f"the value of line {number} goes on in the next line")
        return value

    def _key(self, line: str, number: int) -> tuple[str, str]:
        """Return the key of a line, and what follows the colon without its comment."""
        if line.startswith("- ") or line == "-":
            raise NotMappings(f"line {number} is an element of a list, not a member")
        for pattern in (_SINGLE, _DOUBLE):
            quoted_key = pattern.match(line)
            if quoted_key:
                rest = line[quoted_key.end() :].lstrip()
                if not rest.startswith(":") or (rest[1:2] not in ("", " ", "\t")):
                    raise NotMappings(f"line {number} has no colon behind its key")
                return self._unquote(quoted_key, number), _without_comment(rest[1:])
        self._refuse_indicators(line, number)
        match = _PLAIN_KEY.match(line)
        if match is None or line[0] in "'\"" or _COMMENT_IN_KEY.search(match["key"]):
            raise NotMappings(f"line {number} is not a member: '<key>: <value>'")
        key = match["key"].rstrip(" \t")
        if key == "<<" or key in _NULLS or _NOT_TEXT.fullmatch(key):
            raise Unsupported(f"the key of line {number} is not text")
        return key, _without_comment(line[match.end() :])

    def _scalar(self, text: str, number: int) -> Value:
        for pattern in (_SINGLE, _DOUBLE):
            match = pattern.match(text)
            if match:
                if match.end() != len(text):
                    raise NotMappings(f"line {number} has text behind a quoted value")
                return self._unquote(match, number)
        self._refuse_indicators(text, number)
        if text[0] in "'\"":
            if text.count(text[0]) == 1 and not self._is_closed(number, text[0]):
                raise NotMappings(f"line {number} opens quotes that nothing closes")
            raise Unsupported(f"the quotes of line {number} are not closed in the line")
        if re.search(r":(?=[ \t]|$)", text):
            raise NotMappings(f"line {number} has a second colon; put the value in quotes")
        if text in _NULLS:
            return None
        return 0 if _NOT_TEXT.fullmatch(text) else text

    def _unquote(self, match: re.Match[str], number: int) -> str:
        if match.re is _SINGLE:
            return match[1].replace("''", "'")
        if "\\" not in match[1]:
            return match[1]
        try:
            decoded = json.loads(match[0])
        except ValueError:
            raise Unsupported(f"line {number} has an escape of YAML") from None
        return str(decoded)

    def _refuse_indicators(self, text: str, number: int) -> None:
        first = text[0]
        if first in "[{" and not self._is_closed(number, first):
            raise NotMappings(f"line {number} opens a bracket that nothing closes")
        if first in "&!|>[{" or (first == "?" and text[1:2] in ("", " ", "\t")):
            raise Unsupported(f"line {number} uses {_INDICATORS[first]}")
        if first == "*":
            raise NotMappings(f"line {number}: text that begins with '*' must be in quotes")
        if first == "-" and text[1:2] in ("", " ", "\t"):
            raise NotMappings(f"line {number} has an element of a list in the line of a key")
        if first in "]},%@`":
            raise NotMappings(f"line {number}: text that begins with {first} must be in quotes")

    def _is_closed(self, number: int, opening: str) -> bool:
        """Return whether a bracket can be closed in its line or below, or quotes below."""
        closing = {"[": "]", "{": "}"}.get(opening)
        if closing is None:
            return any(opening in line for line in self._text[number:])
        return any(closing in line for line in self._text[number - 1 :])


def _without_comment(text: str) -> str:
    """Return a value without the comment behind it, and without white space around it."""
    text = text.strip(" \t")
    for pattern in (_SINGLE, _DOUBLE):
        match = pattern.match(text)
        if match:
            rest = _COMMENT.sub("", text[match.end() :]).strip(" \t")
            return match[0] + rest
    return _COMMENT.sub("", text).strip(" \t")
