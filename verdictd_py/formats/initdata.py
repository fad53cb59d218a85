"""Init-data: what a host configures a guest with, and a quote proves by its digest.

Source: kata-containers and guest-components, "initdata": a TOML or JSON document with
`version`, `algorithm` and `data`; a TEE measures the digest over its text as it stands.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from math import isfinite
from typing import Final

from verdictd_py.domain.evidence import InitData
from verdictd_py.encoding import JsonValue, decode_object, has_more_values, quoted
from verdictd_py.errors import EvidenceFormat, Reason, RequestError

MAX_BYTES: Final = 256 * 1024
"""A policy of the agent and some certificates; real ones have below 64 KiB."""

MAX_VALUES: Final = 1024
"""Keys and elements together; real ones have some ten. The time that a policy engine takes
for them grows with the square of their number (`policy.engine`)."""

CLAIM: Final = "initData"
"""The claim with what the document says, None where the guest showed none."""

_ALGORITHMS: Final = ("sha256", "sha384", "sha512")  # sm3 exists (wire-rcar.md): refused
_MAX_DEPTH: Final = 16
_MAX_PARTS: Final = 8 * MAX_VALUES  # ends of lines among them, so that comments have room
_MAX_INTEGER: Final = 2**63  # TOML 1.0, "Integer": 64 bits; Python's can be too long to be written

# TOML 1.0, "Comment" and "String": what dots of keys do not stand in. A string without its end
# reaches as far as it could: looking for its end again behind each quote takes quadratic time.
_NO_KEY: Final = re.compile(
    r"#[^\n]*+"
    r'|"""(?s:[^"\\]|\\.|"(?!""))*+(?:"{3,5}|\Z)'
    r"|'''(?:[^']|'(?!''))*+(?:'{3,5}|\Z)"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'[^'\n]*+'?"
)
_BETWEEN_KEYS: Final = re.compile(r"[\n,=\[\]{}]")


@dataclass(frozen=True, slots=True)
class Document:
    """Init-data that was read.

    Attributes:
        digest: of the text as it stands, at the full length of its algorithm.
        content: what it says, as JSON.
    """

    digest: bytes
    content: Mapping[str, JsonValue] = field(repr=False)

    def mismatches(self, claim: str, measured: bytes, size: int) -> tuple[Reason, ...]:
        """Return why this is not the init-data that a guest was started with; empty: it is.

        Args:
            claim: name of the claim that holds the digest.
            measured: its bytes.
            size: the digest is cut or filled with zeros to so many bytes.
        """
        expected = self.digest[:size].ljust(size, b"\0")
        if measured == expected:
            return ()
        shown = measured.hex()
        text = f"{CLAIM}: its digest is {expected.hex()}, but {claim} measured {shown}"
        return (Reason(CLAIM, shown, expected.hex(), text),)


def parse(shown_by_guest: InitData) -> Document:
    """Reads what a guest shows as its init-data.

    Raises:
        EvidenceFormat: it cannot be read, or names a digest that is not served.
    """
    data = shown_by_guest.body.encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES:
        raise EvidenceFormat(f"the init-data is larger than {MAX_BYTES} bytes")
    content = _content(shown_by_guest.form, shown_by_guest.body, data)
    if has_more_values(content, MAX_VALUES):
        raise _too_many()
    algorithm = content.get("algorithm")
    spelled = algorithm.replace("-", "").lower() if isinstance(algorithm, str) else ""
    if spelled not in _ALGORITHMS:
        named = quoted(algorithm) if isinstance(algorithm, str) else "none"
        raise EvidenceFormat(
            f"the init-data names the digest {named}; served are sha256, sha384 and sha512"
        )
    return Document(hashlib.new(spelled, data).digest(), content)


def _content(form: str, body: str, data: bytes) -> dict[str, JsonValue]:
    if form == "json":
        try:
            return decode_object(data, "the init-data")
        except RequestError as error:
            raise EvidenceFormat(str(error)) from None
    if form != "toml":
        raise EvidenceFormat(f"init-data of format {quoted(form)}; served are toml and json")
    try:
        _check_parts(body)
        found = _json_value(tomllib.loads(body), 0)
    except (ValueError, RecursionError):  # TOMLDecodeError among them; its text quotes the body
        raise EvidenceFormat("the init-data is no TOML") from None
    assert isinstance(found, dict)  # noqa: S101  # a TOML document is a table
    return found


def _check_parts(body: str) -> None:
    """Refuses what takes long before anything reads it: many parts, and deep dotted keys.

    `tomllib` takes quadratic time for `a.a.a...`: 24 seconds at `MAX_BYTES`. Dots stand in
    numbers and dates too, one or two in each.

    Raises:
        EvidenceFormat: there are too many lines, keys, values and brackets.
        ValueError: it has such a key.
    """
    parts = _BETWEEN_KEYS.split(_NO_KEY.sub("_", body))
    if len(parts) > _MAX_PARTS:
        raise _too_many()
    if any(part.count(".") > _MAX_DEPTH for part in parts):
        raise ValueError("nested too deep")


def _too_many() -> EvidenceFormat:
    return EvidenceFormat(f"the init-data has more than {MAX_VALUES} values")


def _json_value(value: object, depth: int) -> JsonValue:
    """What TOML has and JSON has not becomes text."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    match value:
        case dict():
            return {str(name): _json_value(each, depth + 1) for name, each in value.items()}
        case list():
            return [_json_value(each, depth + 1) for each in value]
        case datetime() | date() | time():
            return value.isoformat()
        case float() if not isfinite(value):
            raise ValueError("a number that is not finite")
        case int() if not -_MAX_INTEGER <= value < _MAX_INTEGER:
            raise ValueError("a number of more than 64 bits")
        case str() | int() | float() | bool():
            return value
        case _:
            raise ValueError("a value that JSON has not")
