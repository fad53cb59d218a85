"""Reference data of a TEE. It is read strictly, because every part of it affects decisions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, Self

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid

MAX_DATA_BYTES: Final = 4 * 1024 * 1024
"""Maximum size, for about 40,000 values of 96 hex digits; 10,000 cost 29 ms per decision."""

MAX_DATA_DEPTH: Final = 32
"""Maximum nesting of lists and objects, because the engine's parser recurses."""

MAX_DIGITS: Final = 100
"""Maximum number of digits of an integer."""

RESERVED: Final = "policy"
"""Package of the policy's decision: in the engine, data of this name would replace it."""

Reference = Mapping[str, JsonValue]
"""Parsed reference values by name."""


@dataclass(frozen=True, slots=True)
class ReferenceData:
    """Reference values of one TEE, parsed once for all their uses.

    Attributes:
        values: reference values by name; never modified.
        text: canonical JSON text of the values (`canonical`), as the engine takes it.
    """

    values: Reference
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a stored document.

        Raises:
            PolicyInvalid: the text is too large, nested too deeply, not JSON or not an object;
                or it contains a duplicate name, an invalid number, invalid Unicode, or the
                reserved name.
        """
        return cls(*_read(text))

    @classmethod
    def of(cls, values: Reference) -> Self:
        """Return reference data with values that were parsed before, for example a union.

        Raises:
            PolicyInvalid: the values are not JSON, or larger than `MAX_DATA_BYTES` together.
        """
        try:
            text = canonical(dict(values))
        except ValueError as error:
            raise PolicyInvalid(f"the reference data is not usable JSON: {error}") from error
        _require_size(text)
        return cls(values, text)

    def unpinned(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names without reference values: their list is missing or empty."""
        return tuple(name for name in names if self.values.get(name, []) == [])

    def serialize(self) -> str:
        """Return the text to store, indented."""
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
            f"the reference data has the name `{RESERVED}`, which would replace the policy's "
            "decision; rename it"
        )
    if _depth(data) > MAX_DATA_DEPTH:
        raise PolicyInvalid(f"the reference data is nested more than {MAX_DATA_DEPTH} levels deep")
    return data, written


def _require_size(text: str) -> None:
    if len(text) > MAX_DATA_BYTES or len(text.encode("utf-8", "replace")) > MAX_DATA_BYTES:
        raise PolicyInvalid(f"the reference data is larger than {MAX_DATA_BYTES} bytes")


def canonical(value: object) -> str:
    """Return the canonical JSON text of `value`, for the engine.

    The engine compares strings as they are escaped in the text, so that `"\\u0041"` differs from
    `"A"`. Claims and reference data are therefore both written by this function.

    Raises:
        ValueError: the value is not JSON (NaN, a lone surrogate, another object), or is nested
            too deeply.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    text.encode("utf-8")
    return text


def _no_duplicates(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _short_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _depth(value: JsonValue) -> int:
    deepest = 0
    pending: list[tuple[JsonValue, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        deepest = max(deepest, depth)
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        pending.extend((member, depth + 1) for member in inner)
    return deepest
