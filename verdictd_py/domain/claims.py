"""Claims of a TEE: form and meaning of each value, and how reference data pins it."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from verdictd_py.encoding import JsonValue

TCB_BEHIND: Final = "tcbBehind"
"""Claim of a guest whose TCB is not the newest: a text for each component that is behind."""


@dataclass(frozen=True, slots=True)
class Form:
    """Form of a claim's value.

    Attributes:
        description: completes "is not ...": `96 lower-case hex digits`.
        accepts: returns whether a value has this form.
        sample: a value of this form that no real guest measures.
        bytes_of: decodes a value of this form; None if values of this form do not encode bytes.
    """

    description: str
    accepts: Callable[[JsonValue], bool]
    sample: JsonValue
    bytes_of: Callable[[str], bytes] | None = None


def hexadecimal(size: int) -> Form:
    """Return the form of `size` bytes as lower-case hexadecimal digits."""
    digits = re.compile(f"[0-9a-f]{{{2 * size}}}")
    return Form(
        f"{2 * size} lower-case hex digits",
        lambda value: isinstance(value, str) and digits.fullmatch(value) is not None,
        "ff" * size,
        bytes.fromhex,
    )


def base64_of(size: int) -> Form:
    """Return the form of `size` bytes as canonical base64 with padding."""

    def accepts(value: JsonValue) -> bool:
        if not isinstance(value, str):
            return False
        try:
            decoded = b64decode(value, validate=True)
        except ValueError:
            return False
        return len(decoded) == size and b64encode(decoded).decode() == value

    sample = b64encode(b"\xff" * size).decode()
    return Form(f"base64 of {size} bytes", accepts, sample, b64decode)


def is_number(value: JsonValue) -> bool:
    """Return whether a JSON value is a number; `true` and `false` are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


NUMBER: Final = Form("a number", is_number, 1)
FLAG: Final = Form("true or false", lambda value: isinstance(value, bool), False)
TEXT: Final = Form("text", lambda value: isinstance(value, str), "a text")
TEXTS: Final = Form(
    "a list of texts",
    lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    [],
)


class MatchRule(Enum):
    """Comparison of a claim with its reference value in a packaged policy."""

    ONE_OF = "one of"
    """The reference value is a list that must contain the claim; an empty list accepts any."""

    EACH_ONE_OF = "each one of"
    """The claim is a list, and each of its values must be in the list of reference values."""

    AT_LEAST = "at least"
    """Both are numbers; `policy.floor.non_numeric_minima` refuses any other type."""

    ALWAYS_FALSE = "false"
    """There is no reference value: the packaged policy refuses every value except false."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Description of one claim of a TEE.

    Attributes:
        form: form of its value.
        meaning: one phrase for operators, without a full stop.
        measurement: whether it identifies software, so that operators pin it.
        match: how a packaged policy compares it.
        optional: whether a packaged policy accepts a guest without this claim.
        sample: value of an acceptable guest in checks of policies; None for the form's sample.
        of_connection: whether it differs for each connection of a guest. A packaged policy reads
            such a claim only if the reference data has a member of its name.
    """

    form: Form
    meaning: str
    measurement: bool = False
    match: MatchRule = MatchRule.ONE_OF
    optional: bool = False
    sample: JsonValue = None
    of_connection: bool = False


def measurement(form: Form, meaning: str) -> Claim:
    """Return a claim that identifies software, pinned by a list of accepted values."""
    return Claim(form, meaning, measurement=True)
