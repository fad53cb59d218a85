"""Errors between a guest and a KBS, distinguished as real guests distinguish them."""

from __future__ import annotations

import base64
import json
import re
from typing import Final, NoReturn

from verdictd_py.encoding import JsonValue
from verdictd_py.guest.connection import BrokerRefused

MAX_DETAIL_CHARACTERS: Final = 1024
"""Largest part of a KBS's text that is repeated: long enough for a sentence."""

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_PERHAPS_MISSING: Final = (401, "PluginInternalError")

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")  # RFC 8259, 7: perhaps half of a pair


class KbsRefused(BrokerRefused):
    """The KBS refused, with the error body of wire-rcar.md, "Errors", or without a body.

    Attributes:
        status: HTTP status.
        variant: the last segment of the error's `type`, as `PolicyDeny`; empty without a body.
        error_type: the whole `type`.
        detail: the KBS's text, cut; empty without a body.
    """

    code = "kbs-refused"

    def __init__(self, what: str, status: int, *, error_type: str = "", detail: str = "") -> None:
        self.status = status
        self.error_type = error_type[:MAX_DETAIL_CHARACTERS]
        self.variant = self.error_type.rpartition("/")[2]
        self.detail = detail[:MAX_DETAIL_CHARACTERS]
        text = ": ".join(part for part in (self.variant, self.detail) if part)
        if (status, self.variant) == _PERHAPS_MISSING:
            text += " (upstream's KBS answers this also if there is no such resource)"
        super().__init__(f"the KBS answered {what} with {status}" + (f", {text}" if text else ""))

    @property
    def has_body(self) -> bool:
        """Whether the answer had an error body that guests can read."""
        return bool(self.error_type)


class AnswerInvalid(BrokerRefused):
    """The KBS's answer cannot be read or decrypted by guests; no part of it is repeated."""

    code = "kbs-answer-invalid"


def read_json(data: bytes, what: str) -> JsonValue:
    """Decode an answer as JSON, and refuse duplicate members and unpaired surrogates.

    Raises:
        AnswerInvalid: not such JSON.
    """
    try:
        value: JsonValue = json.loads(
            data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_constant
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # the cause could contain a secret
        raise AnswerInvalid(f"{what} is not JSON that guests can read") from None
    return value


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is named twice")
    return members


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def read_object(data: bytes, what: str) -> dict[str, JsonValue]:
    """Decode an answer as a JSON object.

    Raises:
        AnswerInvalid: not a JSON object.
    """
    value = read_json(data, what)
    if not isinstance(value, dict):
        raise AnswerInvalid(f"{what} is not a JSON object")
    return value


def text_of(members: dict[str, JsonValue], name: str, what: str) -> str:
    """Return a required member, a string.

    Raises:
        AnswerInvalid: it is missing or not a string.
    """
    value = members.get(name)
    if not isinstance(value, str):
        raise AnswerInvalid(f"{what} lacks {name!r}, or it is not a string")
    return value


def from_base64url(text: str, what: str) -> bytes:
    """Decode base64url without padding, as strictly as guests do (RFC 4648, 5 and 3.5).

    Raises:
        AnswerInvalid: it has padding, characters of the other alphabet, or trailing bits.
    """
    if _BASE64URL.fullmatch(text) and len(text) % 4 != 1:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if to_base64url(data) == text:
            return data
    raise AnswerInvalid(f"{what} is not base64url without padding")


def to_base64url(data: bytes) -> str:
    """Encode bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def refusal(what: str, status: int, body: bytes) -> KbsRefused:
    """Return the exception for an answer whose status is not 200."""
    try:
        members = read_object(body, "the error")
        error_type = text_of(members, "type", "the error")
        detail = text_of(members, "detail", "the error")
    except AnswerInvalid:
        return KbsRefused(what, status)
    return KbsRefused(what, status, error_type=error_type, detail=detail)
