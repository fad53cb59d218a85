"""Reference data of a TEE: read strictly, because all of it decides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NoReturn

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

Reference = dict[str, JsonValue]


def parse_data(text: str) -> Reference:
    """Reference data out of its JSON text.

    Raises:
        PolicyInvalid: too large or too deep, not JSON, not one object, a name given twice,
            a number that is none, text that is no Unicode, or the reserved name.
    """
    if len(text) > MAX_DATA_BYTES or len(text.encode("utf-8", "replace")) > MAX_DATA_BYTES:
        raise PolicyInvalid(f"the reference data is larger than {MAX_DATA_BYTES} bytes")
    try:
        data = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_short_integer,
        )
        canonical(data)
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
    return data


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


def unpinned(data: str, measurements: Sequence[str]) -> tuple[str, ...]:
    """Return the measurements for which any value passes: their list is missing or empty.

    Args:
        data: the reference data's text.
        measurements: those of the TEE.

    Returns:
        Names in their usual order. Nothing for data that cannot be read: such data refuses
        every guest.
    """
    try:
        reference = parse_data(data)
    except PolicyInvalid:
        return ()
    return tuple(name for name in measurements if reference.get(name, []) == [])


def _no_duplicates(pairs: list[tuple[str, JsonValue]]) -> Reference:
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
