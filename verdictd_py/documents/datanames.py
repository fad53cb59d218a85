"""Names of reference data that the text of a policy refers to.

A policy reads reference data as `data.<name>`. These names are taken from its text, without
evaluating it. If the text refers to `data` in any other way (`data[name]`, `data` as a whole), it
may read every name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

_WORD: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`|#[^\n]*|[^\W\d]\w*|\S')
"""Tokens: string literals and comments, so that their content is ignored; names; characters."""


@dataclass(frozen=True, slots=True)
class DataNames:
    """Names of reference data that a policy reads.

    Attributes:
        named: top-level names to which its text refers.
        any_name: whether it may read names to which its text does not refer.
    """

    named: frozenset[str]
    any_name: bool


@lru_cache(maxsize=64)
def data_names(policy: str) -> DataNames:
    """Return the names of reference data that a policy in Rego refers to.

    The text need not compile. Names in comments and string literals are ignored.
    """
    words = [word for word in _WORD.findall(policy) if not word.startswith("#")]
    named: set[str] = set()
    any_name = False
    for index, word in enumerate(words):
        if word != "data" or (index > 0 and words[index - 1] == "."):
            continue
        name = _name(words[index + 1 : index + 4])
        if name is None:
            any_name = True
        else:
            named.add(name)
    return DataNames(frozenset(named), any_name)


def _name(following: list[str]) -> str | None:
    """Return the name that follows `data`: `.name` or `["name"]`, None for anything else."""
    if len(following) > 1 and following[0] == "." and following[1].isidentifier():
        return following[1]
    if len(following) > 2 and following[0] == "[" and following[2] == "]":
        return _text(following[1])
    return None


def _text(word: str) -> str | None:
    if word.startswith("`"):
        return word[1:-1]
    try:
        text = json.loads(word)
    except ValueError:
        return None
    return text if isinstance(text, str) else None
