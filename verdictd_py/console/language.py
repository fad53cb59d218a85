"""Languages of the console: a text in English is the key of its translations.

Codes, names of claims, commands, and what the broker itself reports are never translated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Final

_MAX_RANGES: Final = 16
"""Maximum number of language ranges that are read from a request."""


OF_VALUES: Final = (
    *("Overview", "Guests", "Reference values", "Policies", "Release", "Keys and resources"),
    *("Collateral", "Audit", "refused", "not pinned", "problems"),
    *("Accepted", "Refused", "Not verified", "Not appraised"),
    *("in force", "expired", "retired", "valid", "expires soon", "in grace"),
    *("fits", "differs", "any value"),
    *("handshake", "evidence", "collateral", "verification", "policy", "audit", "answer"),
    *("new", "attested"),
    *("Policy", "Reference values with named sets"),
    *("Reference set %(name)s", "Collateral %(name)s", "Certificate of %(name)s"),
    *("Guests, RATS-TLS", "Guests, HTTP (RCAR)", "Management, gRPC", "Key provider", "Console"),
    *("The request is wrong", "Not allowed", "Not found", "Not allowed here"),
    *("Nothing was changed", "The form is too large", "Too many requests", "Internal error"),
    *("Not available now", "The request failed"),
    *("The key is created.", "The key is deleted.", "The resource is deleted."),
    *("The set is retired.", "The set is deleted."),
)
"""Texts that pages translate from values of other modules, where a search does not find them."""


@dataclass(frozen=True, slots=True)
class Language:
    """A language of the pages.

    Attributes:
        code: value of the preference, `en`.
        tag: tag of BCP 47 for the page, `zh-CN`.
        name: name of the language in itself.
        texts: translations by text in English; empty for English.
    """

    code: str
    tag: str
    name: str
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __call__(self, text: str, **values: object) -> str:
        """Return a text in this language, with values in place of its `%(name)s`."""
        translated = self.texts.get(text) or (text if self.texts else _with_number(text, values))
        return translated % values if values else translated


_COUNTED: Final = re.compile(
    r"(%\((\w+)\)d (?:(?:more|new|other|equal|matching|stored) )?[a-z]+?)s\b"
    r"( are\b| have\b| were\b| differ\b)?"
)
_SINGULAR: Final = {" are": " is", " have": " has", " were": " was", " differ": " differs"}


def _with_number(text: str, values: Mapping[str, object]) -> str:
    """Return a text in English with the singular of what there is one of: `1 record is`."""

    def counted(found: re.Match[str]) -> str:
        verb = found[3] or ""
        return f"{found[1]}{_SINGULAR.get(verb, verb)}" if values.get(found[2]) == 1 else found[0]

    return _COUNTED.sub(counted, text) if values else text


ENGLISH: Final = Language("en", "en", "English")


@cache
def languages() -> tuple[Language, ...]:
    """Return all languages, the default first."""
    texts = json.loads(resources.files(__package__).joinpath("assets/zh.json").read_text("utf-8"))
    return ENGLISH, Language("zh", "zh-CN", "中文", texts)


def named(code: str) -> Language | None:
    """Return the language with this code, None if there is none."""
    return next((each for each in languages() if each.code == code), None)


def preferred(accept: str) -> Language:
    """Return the language that a client prefers (RFC 9110, 12.5.4)."""
    best, quality = ENGLISH, 0.0
    for part in accept.split(",")[:_MAX_RANGES]:
        tag, _, parameters = part.strip().lower().partition(";")
        language = named(tag.partition("-")[0])
        weight = _weight(parameters)
        if language is not None and weight > quality:
            best, quality = language, weight
    return best


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if not parameters.strip():
        return 1.0
    try:
        return float(value) if name.strip() == "q" else 0.0
    except ValueError:
        return 0.0
