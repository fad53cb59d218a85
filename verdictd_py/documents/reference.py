"""Reference data of a TEE: read strictly, because all of it decides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, Self

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid

MAX_DATA_BYTES: Final = 4 * 1024 * 1024
"""About 40,000 values of 96 hex digits; 10,000 already cost 29 ms a decision."""

MAX_DATA_DEPTH: Final = 32
"""Lists and objects inside each other; the defaults have 2. The engine's parser recurses."""

MAX_DIGITS: Final = 100
"""Of one number; a count of anything has far fewer."""

RESERVED: Final = "policy"
"""Package of the verdict: the engine lets data of this name replace it."""

Reference = Mapping[str, JsonValue]
"""Parsed reference values by name."""


@dataclass(frozen=True, slots=True)
class ReferenceData:
    """Reference values of one TEE, parsed once for everything that uses them.

    Attributes:
        values: by name; nobody alters them.
        text: the one JSON text of the values (`canonical`), as the engine takes it.
    """

    values: Reference
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a stored document.

        Raises:
            PolicyInvalid: the text is too large or too deep, not JSON or not one object, or has
                a name twice, a number that is none, text that is no Unicode, or the reserved
                name.
        """
        return cls(*_read(text))

    @classmethod
    def of(cls, values: Reference) -> Self:
        """Make reference data of values that were parsed before, for example of a union.

        Raises:
            PolicyInvalid: they are no JSON, or together larger than `MAX_DATA_BYTES`.
        """
        try:
            text = canonical(dict(values))
        except ValueError as error:
            raise PolicyInvalid(f"the reference data is not usable JSON: {error}") from error
        _require_size(text)
        return cls(values, text)

    def unpinned(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of `names` for which any value passes: the list is missing or empty."""
        return tuple(name for name in names if self.values.get(name, []) == [])

    def written(self) -> str:
        """Return the text to store: indented, for people."""
        return json.dumps(self.values, indent=2) + "\n"


def _read(text: str) -> tuple[dict[str, JsonValue], str]:
    """Return the values and their canonical text."""
    _require_size(text)
    try:
        data = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_short_integer,
        )
        written = canonical(data)
    except RecursionError as error:
        raise PolicyInvalid("the reference data is nested too deeply") from error
    except ValueError as error:
        raise PolicyInvalid(f"the reference data is not usable JSON: {error}") from error
    if not isinstance(data, dict):
        raise PolicyInvalid("the reference data is not a JSON object")
    if RESERVED in data:
        raise PolicyInvalid(
            f"the reference data has the name `{RESERVED}`, which would replace the verdict"
        )
    if _depth(data) > MAX_DATA_DEPTH:
        raise PolicyInvalid(f"the reference data is nested deeper than {MAX_DATA_DEPTH}")
    return data, written


def _require_size(text: str) -> None:
    if len(text) > MAX_DATA_BYTES or len(text.encode("utf-8", "replace")) > MAX_DATA_BYTES:
        raise PolicyInvalid(f"the reference data is larger than {MAX_DATA_BYTES} bytes")


def canonical(value: object) -> str:
    """The one JSON text of `value`, for the engine.

    The engine compares strings as they are escaped in the text, so that `"\\u0041"` is not
    `"A"`: claims and reference data both go through here, and equal means equal.

    Raises:
        ValueError: not JSON (NaN, a lone surrogate, some other object), or nested too deep.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    text.encode("utf-8")
    return text


def _no_duplicates(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _short_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _depth(value: JsonValue) -> int:
    deepest = 0
    waiting: list[tuple[JsonValue, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        deepest = max(deepest, depth)
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        waiting.extend((each, depth + 1) for each in inner)
    return deepest
