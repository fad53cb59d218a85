"""Writer of YAML 1.2 for the data of commands: mappings, lists and the scalars of JSON.

Every text is written in double quotes, as in JSON, unless it is a plain word: no reader of YAML 1.1
or 1.2 takes such a word for a number, a date or a truth value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_RESERVED: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_INDENT: Final = "  "


def to_yaml(value: object) -> str:
    """Return a YAML document, which ends with a line feed."""
    return "\n".join(_block(value, "")) + "\n"


def _block(value: object, indent: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, member in value.items():
            yield from _member(f"{indent}{_scalar(str(name))}:", member, indent)
    elif isinstance(value, list | tuple) and value:
        for item in value:
            lines = list(_block(item, ""))
            yield f"{indent}- {lines[0]}"
            yield from (f"{indent}{_INDENT}{line}" for line in lines[1:])
    else:
        yield indent + _scalar(value)


def _member(head: str, value: object, indent: str) -> Iterator[str]:
    if isinstance(value, dict | list | tuple) and value:
        yield head
        yield from _block(value, indent + _INDENT)
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: object) -> str:
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    if isinstance(value, str):
        return '"' + "".join(map(_escaped, value)) + '"'
    return json.dumps(value)


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
