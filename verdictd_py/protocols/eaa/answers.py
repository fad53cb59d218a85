"""Encoder of answers to guests, byte for byte as their client reads them.

The client considers an answer complete when a read does not fill its buffer or when it
has the expected length, so an answer that does not fit is refused here, not sent. Source:
wire-eaa.md, "How the client reads" and "Commands".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue, encode_base64, encode_object
from verdictd_py.errors import RequestError, StorageError

MAX_ANSWER_BYTES: Final = 16_384
"""The client's buffer (`version`, `Decrypt`, `Get KEK`, `Get Resource Info`): it cuts a
longer answer there and reads the rest as the next answer."""

MAX_FAILURE_CHARACTERS: Final = 512
"""Largest length of a failure's text: JSON takes at most 6 bytes for a character, so that
the base64 of the answer fits the buffer too."""

_VERSION: Final = "v1"

_EMPTY_RESOURCE: Final = "the resource is empty, and guests cannot fetch an empty resource"


class FailureForm(Enum):
    """Shape of a failure, which depends on the shape of the command's success (wire-eaa.md)."""

    A = "A"
    VERSION = "A with a version, which clients require in every answer to that command"
    B = "B"
    B_BASE64 = "base64 of B"


@dataclass(frozen=True, slots=True)
class Version:
    """Result of `version`."""


@dataclass(frozen=True, slots=True)
class EchoedText:
    """Result of `echo`."""

    text: str


@dataclass(frozen=True, slots=True)
class Plaintexts:
    """Result of `Decrypt`: pairs of `encrypted_data` exactly as sent, and its plaintext."""

    pairs: tuple[tuple[str, SecretBytes], ...]


@dataclass(frozen=True, slots=True)
class Keks:
    """Result of `Get KEK`: pairs of a kid exactly as sent, and the key."""

    pairs: tuple[tuple[str, SecretBytes], ...]


@dataclass(frozen=True, slots=True)
class ResourceInfo:
    """Result of `Get Resource Info`: length of the resource in bytes."""

    content_bytes: int


@dataclass(frozen=True, slots=True)
class Resource:
    """Result of a command that gets a resource."""

    content: SecretBytes


Result = Version | EchoedText | Plaintexts | Keks | ResourceInfo | Resource


def encode(result: Result) -> bytes:
    """Encode the answer to a request.

    Raises:
        RequestError: the answer is longer than the client can read.
        StorageError: the resource is empty, on which the client fails.
    """
    match result:
        case Version():
            return version()
        case EchoedText(text=text):
            return echo(text)
        case Plaintexts(pairs=pairs):
            return encode_plaintexts(pairs)
        case Keks(pairs=pairs):
            return encode_keks(pairs)
        case ResourceInfo(content_bytes=size):
            return resource_info(base64_size(size))
        case Resource(content=content):
            return resource(content)


def version() -> bytes:
    """Encode the answer to `version`."""
    return encode_object({"status": "OK", "version": _VERSION})


def echo(text: str) -> bytes:
    """Encode the answer to `echo`: the text itself. The connection is then closed."""
    return text.encode("utf-8")


def encode_plaintexts(pairs: Iterable[tuple[str, SecretBytes]]) -> bytes:
    """Encode the answer to `Decrypt`.

    Args:
        pairs: `encrypted_data` exactly as sent, and its plaintext.

    Raises:
        RequestError: the answer is longer than the client can read.
    """
    return _mapping(pairs)


def encode_keks(pairs: Iterable[tuple[str, SecretBytes]]) -> bytes:
    """Encode the answer to `Get KEK`.

    Args:
        pairs: kid exactly as sent, and the key.

    Raises:
        RequestError: the answer is longer than the client can read.
    """
    return _mapping(pairs)


def base64_size(content_bytes: int) -> int:
    """Return the number of characters of the padded base64 of `content_bytes` bytes."""
    return (content_bytes + 2) // 3 * 4


def resource_info(size_of_base64: int) -> bytes:
    """Encode the answer to `Get Resource Info`.

    Args:
        size_of_base64: number of characters that `resource` will send, see `base64_size`.

    Raises:
        StorageError: the size is 0, on which the client fails.
    """
    if size_of_base64 <= 0:
        raise StorageError(_EMPTY_RESOURCE)
    return _small({"status": "OK", "data": {"base64size": str(size_of_base64)}})


def resource(content: SecretBytes) -> bytes:
    """Encode the answer to every command that gets a resource: its base64 without JSON.

    Raises:
        StorageError: the content is empty.
    """
    if not len(content):
        raise StorageError(_EMPTY_RESOURCE)
    return encode_base64(content.reveal()).encode("ascii")


def failure(form: FailureForm, text: str) -> bytes:
    """Encode a `Fail` answer.

    Args:
        form: the request's `failure_form`; A if there is no request.
        text: a text that may be disclosed to the peer; cut at `MAX_FAILURE_CHARACTERS`.
    """
    error = text.encode("ascii", "backslashreplace").decode("ascii")[:MAX_FAILURE_CHARACTERS]
    if form is FailureForm.A:
        return encode_object({"status": "Fail", "data": {}, "error": error})
    if form is FailureForm.VERSION:
        return encode_object({"status": "Fail", "version": _VERSION, "error": error})
    answer = encode_object({"status": "Fail", "error": error})
    if form is FailureForm.B:
        return answer
    return encode_base64(answer).encode("ascii")


def _mapping(pairs: Iterable[tuple[str, SecretBytes]]) -> bytes:
    data: dict[str, JsonValue] = {name: encode_base64(secret.reveal()) for name, secret in pairs}
    return _small({"status": "OK", "data": data})


def _small(members: dict[str, JsonValue]) -> bytes:
    answer = encode_object(members)
    if len(answer) > MAX_ANSWER_BYTES:
        raise RequestError(
            f"the answer would take {len(answer)} bytes and the client reads "
            f"{MAX_ANSWER_BYTES}; request less at once"
        )
    return answer
