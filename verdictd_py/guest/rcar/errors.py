"""What can go wrong between a guest and a KBS, told apart as guests do."""

from __future__ import annotations

import base64
import json
import re
from typing import Final, NoReturn

from verdictd_py.encoding import JsonValue
from verdictd_py.guest.connection import BrokerRefused

MAX_DETAIL_CHARACTERS: Final = 1024
"""Of a KBS's words that are repeated: enough for a sentence, too little to flood a terminal."""

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_PERHAPS_MISSING: Final = (401, "PluginInternalError")

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")  # RFC 8259, 7: perhaps half of a pair


class KbsRefused(BrokerRefused):
    """The KBS said no, in the error body of wire-rcar.md, "Errors", or in none.

    Attributes:
        status: of HTTP.
        variant: the last segment of the error's `type`: `PolicyDeny`; empty without a body.
        error_type: the whole of `type`.
        detail: the KBS's words, cut; empty without a body.
    """

    code = "kbs-refused"

    def __init__(self, what: str, status: int, *, error_type: str = "", detail: str = "") -> None:
        self.status = status
        self.error_type = error_type[:MAX_DETAIL_CHARACTERS]
        self.variant = self.error_type.rpartition("/")[2]
        self.detail = detail[:MAX_DETAIL_CHARACTERS]
        said = ": ".join(part for part in (self.variant, self.detail) if part)
        if (status, self.variant) == _PERHAPS_MISSING:
            said += " (upstream's KBS says no more where there is no such resource)"
        super().__init__(f"the KBS answered {what} with {status}" + (f", {said}" if said else ""))

    @property
    def has_body(self) -> bool:
        """Whether the answer had an error body that guests can read."""
        return bool(self.error_type)


class AnswerInvalid(BrokerRefused):
    """The KBS answered something that guests cannot read or open. Nothing of it is repeated."""

    code = "kbs-answer-invalid"


def read_json(data: bytes, what: str) -> JsonValue:
    """The JSON value that an answer is; members named twice and halves of characters are none.

    Raises:
        AnswerInvalid: it is none.
    """
    try:
        found: JsonValue = json.loads(
            data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_constant
        )
        if _SURROGATE.search(data):
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # the cause would show what may be secret
        raise AnswerInvalid(f"{what} is no JSON that guests read") from None
    return found


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is named twice")
    return members


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def read_object(data: bytes, what: str) -> dict[str, JsonValue]:
    """The JSON object that an answer is.

    Raises:
        AnswerInvalid: it is none.
    """
    found = read_json(data, what)
    if not isinstance(found, dict):
        raise AnswerInvalid(f"{what} is no JSON object")
    return found


def text_of(members: dict[str, JsonValue], name: str, what: str) -> str:
    """A member that guests need, and need as a string.

    Raises:
        AnswerInvalid: it is missing, or something else.
    """
    value = members.get(name)
    if not isinstance(value, str):
        raise AnswerInvalid(f"{what} lacks {name!r}, or it is no string")
    return value


def from_base64url(text: str, what: str) -> bytes:
    """Bytes of base64url without padding, as strictly as guests read it (RFC 4648, 5 and 3.5).

    Raises:
        AnswerInvalid: it has padding, characters of the other alphabet, or stray bits.
    """
    if _BASE64URL.fullmatch(text) and len(text) % 4 != 1:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if to_base64url(data) == text:
            return data
    raise AnswerInvalid(f"{what} is no base64url without padding")


def to_base64url(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def refusal(what: str, status: int, body: bytes) -> KbsRefused:
    """The exception for an answer that is no 200; not raised here."""
    try:
        members = read_object(body, "the error")
        error_type = text_of(members, "type", "the error")
        detail = text_of(members, "detail", "the error")
    except AnswerInvalid:
        return KbsRefused(what, status)
    return KbsRefused(what, status, error_type=error_type, detail=detail)
