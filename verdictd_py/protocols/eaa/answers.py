"""Encodes answers to guests, byte for byte as their client reads them.

The client takes an answer for complete when a read is short of its buffer or when it
has what it expects, so what does not fit is refused here rather than sent. Source:
wire-eaa.md, "How the client reads" and "Commands".
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue, encode_base64, encode_object
from verdictd_py.errors import RequestError, StorageError

MAX_ANSWER_BYTES: Final = 16_384
"""The client's buffer (`version`, `Decrypt`, `Get KEK`, `Get Resource Info`): it cuts a
longer answer there and takes the rest for the next one."""

MAX_FAILURE_CHARACTERS: Final = 512
"""Of a failure's text; at most 6 bytes each in JSON, so that its base64 fits the buffer too."""


class FailureForm(Enum):
    """Shape of a failure, by what the command's success looks like (wire-eaa.md)."""

    A = "A"
    B = "B"
    B_BASE64 = "base64 of B"


def version() -> bytes:
    """Answer to `version`."""
    return encode_object({"status": "OK", "version": "v1"})


def echo(text: str) -> bytes:
    """Answer to `echo`: the text itself. The connection is then closed."""
    return text.encode("utf-8")


def decrypted(pairs: Iterable[tuple[str, SecretBytes]]) -> bytes:
    """Answer to `Decrypt`.

    Args:
        pairs: `encrypted_data` exactly as sent, and its plaintext.

    Raises:
        RequestError: longer than the client can read.
    """
    return _mapping(pairs)


def keks(pairs: Iterable[tuple[str, SecretBytes]]) -> bytes:
    """Answer to `Get KEK`.

    Args:
        pairs: kid exactly as sent, and the key.

    Raises:
        RequestError: longer than the client can read.
    """
    return _mapping(pairs)


def base64_size(content_bytes: int) -> int:
    """Characters of padded base64 for so many bytes."""
    return (content_bytes + 2) // 3 * 4


def resource_info(size_of_base64: int) -> bytes:
    """Answer to `Get Resource Info`.

    Args:
        size_of_base64: characters that `resource` will send, see `base64_size`.

    Raises:
        StorageError: none; the client fails on "0".
    """
    if size_of_base64 <= 0:
        raise StorageError("the resource is empty, which no guest can fetch")
    return _small({"status": "OK", "data": {"base64size": str(size_of_base64)}})


def resource(content: SecretBytes) -> bytes:
    """Answer to every command that gets a resource: its base64, bare.

    Raises:
        StorageError: the content is empty.
    """
    if not len(content):
        raise StorageError("the resource is empty, which no guest can fetch")
    return encode_base64(content.reveal()).encode("ascii")


def failure(form: FailureForm, text: str) -> bytes:
    """A `Fail` answer.

    Args:
        form: as the request's `failure_form`; A where there is no request.
        text: safe for the peer; cut at `MAX_FAILURE_CHARACTERS`.
    """
    error = text.encode("ascii", "backslashreplace").decode("ascii")[:MAX_FAILURE_CHARACTERS]
    if form is FailureForm.A:
        return encode_object({"status": "Fail", "data": {}, "error": error})
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
            f"{MAX_ANSWER_BYTES}; ask for less at once"
        )
    return answer
