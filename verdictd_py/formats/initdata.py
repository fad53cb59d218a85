"""Init-data: the configuration that a host gives a guest, and whose digest a quote proves.

Source: kata-containers and guest-components, "initdata": a TOML or JSON document with
`version`, `algorithm` and `data`; a TEE measures the digest of its exact text.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from math import isfinite
from typing import Final

from verdictd_py.domain.evidence import InitData
from verdictd_py.encoding import JsonValue, decode_object, has_more_values, quoted
from verdictd_py.errors import EvidenceFormat, Reason, ReasonKind, RequestError
from verdictd_py.formats import tomlparts

MAX_BYTES: Final = 1024 * 1024
"""Maximum size. Most init-data has below 64 KiB: an agent policy and some certificates. A policy
that genpolicy generated for many containers has hundreds of KiB."""

MAX_VALUES: Final = 1024
"""Maximum number of keys and elements together; real init-data has about ten. The policy
engine reads all of them for each decision, while other guests wait."""

CLAIM: Final = "initData"
"""Name of the claim with the content of the document; None if the guest sent no init-data."""

_REQUIRED: Final = {"version": str, "data": dict}  # members without which Kata refuses the text
_ALGORITHMS: Final = ("sha256", "sha384", "sha512")  # sm3 exists (wire-rcar.md): refused
_MAX_DEPTH: Final = 16
_MAX_PARTS: Final = 8 * MAX_VALUES  # line ends count too, so this leaves room for comments
_BOM: Final = "\ufeff"  # some editors begin a file with it; the measured text includes it
_MAX_INTEGER: Final = 2**63  # TOML 1.0, "Integer": 64 bits; Python's can be too long to write


@dataclass(frozen=True, slots=True)
class Document:
    """Parsed init-data.

    Attributes:
        digest: digest of the exact text, at the full length of its algorithm.
        content: the document as JSON.
    """

    digest: bytes
    content: Mapping[str, JsonValue] = field(repr=False)

    def mismatches(self, claim: str, measured: bytes, size: int) -> tuple[Reason, ...]:
        """Return why a guest was not started with this init-data; empty if it was.

        Args:
            claim: name of the claim that holds the measured digest.
            measured: the measured digest.
            size: length in bytes to which the digest is cut or filled with zeros.
        """
        expected = self.digest[:size].ljust(size, b"\0")
        if measured == expected:
            return ()
        digits = measured.hex()
        text = f"{CLAIM}: its digest is {expected.hex()}, but {claim} measured {digits}"
        return (Reason(CLAIM, digits, expected.hex(), text, kind=ReasonKind.INIT_DATA),)


def parse(init_data: InitData) -> Document:
    """Read the init-data that a guest sent.

    Raises:
        EvidenceFormat: it cannot be read, or names a digest algorithm that is not supported.
    """
    data = init_data.body.encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES:
        raise EvidenceFormat(f"the init-data is larger than {MAX_BYTES} bytes")
    content = _content(init_data.form, init_data.body.removeprefix(_BOM))
    if has_more_values(content, MAX_VALUES):
        raise _too_many()
    algorithm = content.get("algorithm")
    spelled = algorithm.replace("-", "").lower() if isinstance(algorithm, str) else ""
    if spelled not in _ALGORITHMS:
        named = quoted(algorithm) if isinstance(algorithm, str) else "none"
        raise EvidenceFormat(
            f"the init-data names the digest {named}; supported are sha256, sha384 and sha512"
        )
    for member, kind in _REQUIRED.items():
        if not isinstance(content.get(member), kind):
            raise EvidenceFormat(f"the init-data has no {member}")
    return Document(hashlib.new(spelled, data).digest(), content)


def _content(form: str, body: str) -> dict[str, JsonValue]:
    if form == "json":
        try:
            return decode_object(body.encode("utf-8", "surrogatepass"), "the init-data")
        except RequestError as error:
            raise EvidenceFormat(str(error)) from None
    if form != "toml":
        raise EvidenceFormat(
            f"the init-data has the format {quoted(form)}; supported are toml and json"
        )
    try:
        if tomlparts.exceed(body, _MAX_PARTS, dots=_MAX_DEPTH):
            raise _too_many()
        content = _json_value(tomllib.loads(body), 0)
    except (ValueError, RecursionError):  # also TOMLDecodeError, whose text quotes the body
        raise EvidenceFormat("the init-data is not valid TOML") from None
    assert isinstance(content, dict)  # noqa: S101  # a TOML document is a table
    return content


def _too_many() -> EvidenceFormat:
    return EvidenceFormat(f"the init-data has more than {MAX_VALUES} values")


def _json_value(value: object, depth: int) -> JsonValue:
    """Convert a TOML value to JSON; dates and times, which JSON does not have, become text."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    match value:
        case dict():
            return {str(name): _json_value(item, depth + 1) for name, item in value.items()}
        case list():
            return [_json_value(item, depth + 1) for item in value]
        case datetime() | date() | time():
            return value.isoformat()
        case float() if not isfinite(value):
            raise ValueError("a number that is not finite")
        case int() if not -_MAX_INTEGER <= value < _MAX_INTEGER:
            raise ValueError("a number of more than 64 bits")
        case str() | int() | float() | bool():
            return value
        case _:
            raise ValueError("a value that JSON does not have")
