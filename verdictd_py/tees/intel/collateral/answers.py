"""Documents in the answers of a provisioning certification service.

PCCSs and the proxies before them change the form of an answer, but not what Intel signed: CRLs are
DER, PEM or hexadecimal, JSON has any white space and any order of members.

Sources: Intel "API documentation of the Provisioning Certification Service", version 4; answers of
Intel's PCCS, of other PCCSs and of caches at cloud providers.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from verdictd_py.errors import CollateralUnavailable
from verdictd_py.ports.tees import HttpAnswer

MAX_JSON_BYTES: Final = 256 * 1024
"""Maximum size of a JSON answer, which is read on the event loop. TCB info has about 20 KiB."""

_SPACE: Final = re.compile(r"[ \t\r\n]*+")
_STRING_OR_SPACE: Final = re.compile(r'("[^"\\]*+(?:\\.[^"\\]*+)*")|[ \t\r\n]++')
_BEGIN: Final = b"-----BEGIN X509 CRL-----"
_END: Final = b"-----END X509 CRL-----"
_DECODER: Final = json.JSONDecoder()


def signed(body: bytes, member: str) -> tuple[str, bytes]:
    """Return the exact text that was signed, and its signature, from a JSON answer.

    Intel signs the member's text without white space between its parts. Decoding the JSON and
    encoding it again need not reproduce the text, therefore white space is cut out of it.

    Raises:
        CollateralUnavailable: the answer does not have both, or is too large.
    """
    if len(body) > MAX_JSON_BYTES:
        raise CollateralUnavailable(f"the answer has more than {MAX_JSON_BYTES} bytes")
    try:
        text = body.decode("utf-8-sig")
        members = dict(_members(text))
        start, end = members[member]
        signature_start, signature_end = members["signature"]
        signature = json.loads(text[signature_start:signature_end])
        return _STRING_OR_SPACE.sub(r"\1", text[start:end]), bytes.fromhex(signature)
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # also UnicodeDecodeError
        raise CollateralUnavailable(f"the answer has no {member} with a signature") from error


def _members(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the members of a JSON object, and the begin and end of each value in the text.

    Raises:
        ValueError: it is not a JSON object, or has a member twice.
    """
    names: set[str] = set()
    at = _expect(text, 0, "{")
    while True:
        name, at = _DECODER.raw_decode(text, _skip(text, at))
        if not isinstance(name, str) or name in names:
            raise ValueError("a member has no name, or the same name as another")
        names.add(name)
        start = _skip(text, _expect(text, at, ":"))
        _, at = _DECODER.raw_decode(text, start)
        yield name, (start, at)
        at = _skip(text, at)
        if not text.startswith(",", at):
            break
        at += 1
    if _skip(text, _expect(text, at, "}")) != len(text):
        raise ValueError("text follows the JSON")


def _skip(text: str, at: int) -> int:
    """Return the offset after white space."""
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _expect(text: str, at: int, character: str) -> int:
    """Return the offset after white space and a character.

    Raises:
        ValueError: there is another one.
    """
    at = _skip(text, at)
    if not text.startswith(character, at):
        raise ValueError(f"{character} is missing")
    return at + 1


def header(answer: HttpAnswer, *names: str) -> str:
    """Return the first of several headers that the answer has, decoded.

    Raises:
        CollateralUnavailable: it has none of them.
    """
    for name in names:
        value = answer.headers.get(name.lower())
        if value:
            return unquote(value)
    raise CollateralUnavailable(f"the answer has no header {names[0]}")


def crl(body: bytes) -> bytes:
    """Return a CRL in DER from DER, PEM or hexadecimal, without checking it.

    Raises:
        CollateralUnavailable: the PEM cannot be decoded.
    """
    # Not a pattern: it would search for the end again after each of many beginnings.
    begin = body.find(_BEGIN)
    end = -1 if begin < 0 else body.find(_END, begin)
    if end >= 0:
        text = body[begin + len(_BEGIN) : end]
        try:
            return base64.b64decode(b"".join(text.split()), validate=True)
        except binascii.Error as error:
            raise CollateralUnavailable("the CRL is not valid PEM") from error
    try:
        return bytes.fromhex(body.decode("utf-8-sig").strip().strip('"'))
    except ValueError:  # also UnicodeDecodeError
        return body
