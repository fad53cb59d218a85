"""Text from guests and operators made visible: characters that change how other text appears.

HTML escaping keeps such text from becoming markup. It does not keep a bidirectional control from
reversing the order of a path, or a zero-width character from making two names look the same.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_KEPT: Final = frozenset("\n\t")

_HIDDEN: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"})
"""General categories of controls, formatting (bidirectional and zero-width characters), characters
without a meaning, and separators of lines (Unicode 15, 4.5)."""

_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Letters and symbols that are displayed as nothing."""


def visible(text: str) -> str:
    r"""Return `text` with each invisible character as its escape, `\u202e`.

    Spaces other than U+0020 are escaped too. Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in _KEPT or " " <= character <= "~":
        return character
    category = unicodedata.category(character)
    if category in _HIDDEN or category == "Zs" or character in _BLANK or _is_tag(character):
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def _is_tag(character: str) -> bool:
    """Return whether it is a variation selector, which is displayed as nothing."""
    code = ord(character)
    return 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
