"""A strict reader of DER, and of the X.509 certificates that guests send.

Older guests write the version INTEGER 3, which X.509 does not define, and `cryptography`
refuses to load it. The four required fields of a certificate have fixed positions, so they
are read directly; nothing is computed with a key, and nothing recurses.

Source: X.690 (DER); RFC 5280, 4.1 (structure of certificates).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from verdictd_py.errors import EvidenceFormat

BOOLEAN: Final = 0x01  # X.690, 8.2; X.680, 8.4 lists the tag numbers
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30  # 0x20: constructed

_VERSION: Final = 0xA0  # RFC 5280, 4.1: version [0] EXPLICIT
_EXTENSIONS: Final = 0xA3  # the same: extensions [3] EXPLICIT

_VERSIONS: Final = (b"\x02", b"\x03")  # v3; "v4" of rats-tls before cf464bb
_PIVOT_YEAR: Final = 50  # RFC 5280, 4.1.2.5.1: UTCTime years from 50 on are of the 1900s

_CERTIFICATES: Final = 16
"""Maximum number of cached certificates; a guest can send 64 KiB."""

_UTC: Final = re.compile(rb"([0-9]{2})" + rb"([0-9]{2})" * 5 + rb"Z")
_GENERALIZED: Final = re.compile(rb"([0-9]{4})" + rb"([0-9]{2})" * 5 + rb"Z")


class Reader:
    """Reader of elements in order; only definite, minimal lengths and short tags are accepted.

    Args:
        data: concatenated elements.
        what: name of the data in messages: `the certificate`.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def content(self, tag: int) -> bytes:
        """Read the next element, which must have `tag`, and return its content.

        Raises:
            EvidenceFormat: another tag, truncated, or not DER.
        """
        begin, end = self._extent(tag)
        self._at = end
        return self._data[begin:end]

    def element(self, tag: int) -> bytes:
        """Read the next element, which must have `tag`, and return it with its header.

        Raises:
            EvidenceFormat: as `content`.
        """
        start = self._at
        _, self._at = self._extent(tag)
        return self._data[start : self._at]

    def inner(self, tag: int) -> Reader:
        """Read the next element, and return a reader of its content.

        Raises:
            EvidenceFormat: as `content`.
        """
        return Reader(self.content(tag), self._what)

    def at(self, tag: int) -> bool:
        """Return whether the next element has `tag`."""
        return self._at < len(self._data) and self._data[self._at] == tag

    @property
    def rest(self) -> bytes:
        """The bytes that were not read yet."""
        return self._data[self._at :]

    def end(self) -> None:
        """Check that all bytes were read.

        Raises:
            EvidenceFormat: bytes are left.
        """
        if self._at != len(self._data):
            raise self._refused("has unexpected extra bytes")

    def _extent(self, tag: int) -> tuple[int, int]:
        """Return start and end of the next element's content."""
        data, at = self._data, self._at
        if not self.at(tag):
            raise self._refused("does not have the required structure")
        if at + 2 > len(data):
            raise self._refused("is cut off")
        length, begin = data[at + 1], at + 2
        if length >= 0x80:  # long form; its size follows (X.690, 8.1.3.5)
            size = length & 0x7F
            length = int.from_bytes(data[begin : begin + size], "big")
            begin += size
            # A form that is longer than necessary, leading zeros, or no size: X.690, 10.1.
            if length < 0x80 or length >> 8 * (size - 1) == 0:
                raise self._refused("has a length that is not DER")
        if length > len(data) - begin:
            raise self._refused("is cut off")
        return begin, begin + length

    def _refused(self, why: str) -> EvidenceFormat:
        return EvidenceFormat(f"{self._what} {why}")


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension of a certificate: `value` is the content of its OCTET STRING."""

    critical: bool
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The required fields of a certificate.

    Attributes:
        not_before, not_after: validity period, both ends included, UTC.
        spki: the SubjectPublicKeyInfo, exactly the DER bytes of the certificate.
        extensions: by OID, as `oid` encodes it.
    """

    not_before: datetime
    not_after: datetime
    spki: bytes = field(repr=False)
    extensions: Mapping[bytes, Extension] = field(repr=False)


@lru_cache(maxsize=_CERTIFICATES)
def read_certificate(der: bytes) -> Certificate:
    """Read a certificate.

    Certificates with unique ids, which no guest sends, are refused. The last ones are cached,
    because the TLS session reads the key first, and the appraisal everything else.

    Raises:
        EvidenceFormat: not DER, not a certificate, extra bytes after it, or a duplicate
            extension.
    """
    outer = Reader(der, "the certificate")
    whole = outer.inner(SEQUENCE)
    outer.end()
    signed = whole.inner(SEQUENCE)  # tbsCertificate
    whole.content(SEQUENCE)  # signatureAlgorithm
    whole.content(BIT_STRING)  # signatureValue
    whole.end()
    if signed.at(_VERSION):
        version = signed.inner(_VERSION)
        if version.content(INTEGER) not in _VERSIONS:
            raise EvidenceFormat("the certificate is neither X.509 v3 nor the v4 of older guests")
        version.end()
    signed.content(INTEGER)  # serialNumber
    signed.content(SEQUENCE)  # signature
    signed.content(SEQUENCE)  # issuer
    validity = signed.inner(SEQUENCE)
    not_before, not_after = _time(validity), _time(validity)
    validity.end()
    signed.content(SEQUENCE)  # subject
    spki = signed.element(SEQUENCE)
    extensions = _extensions(signed) if signed.at(_EXTENSIONS) else {}
    signed.end()
    return Certificate(not_before, not_after, spki, extensions)


def with_version(tbs: bytes, version: int) -> bytes:
    """Return a tbsCertificate with another version INTEGER, as older guests sign it.

    Args:
        tbs: DER of an X.509 v3 tbsCertificate.
        version: 0 to 127; 2 is X.509 v3.

    Raises:
        EvidenceFormat: `tbs` does not begin with a version INTEGER of one byte.
    """
    fields = Reader(tbs, "the certificate").inner(SEQUENCE)
    if len(fields.inner(_VERSION).content(INTEGER)) != 1:
        raise EvidenceFormat("the certificate has no version INTEGER of one byte")
    tail = fields.rest
    return tbs[: len(tbs) - len(tail) - 1] + bytes([version]) + tail


def encode(tag: int, *contents: bytes) -> bytes:
    """Encode one element with `contents`."""
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


def oid(dotted: str) -> bytes:
    """Encode the content of an OBJECT IDENTIFIER (X.690, 8.19), as `2.23.133.5.4.9`."""
    first, second, *others = (int(arc) for arc in dotted.split("."))
    encoded = b""
    for arc in (40 * first + second, *others):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        encoded += bytes(reversed(groups))
    return encoded


def _extensions(signed: Reader) -> dict[bytes, Extension]:
    wrapper = signed.inner(_EXTENSIONS)
    entries = wrapper.inner(SEQUENCE)
    wrapper.end()
    extensions: dict[bytes, Extension] = {}
    while entries.at(SEQUENCE):
        entry = entries.inner(SEQUENCE)
        name = entry.content(OBJECT_IDENTIFIER)
        # DER omits FALSE, the default, and encodes TRUE as 0xff.
        critical = entry.at(BOOLEAN)
        if critical and entry.content(BOOLEAN) != b"\xff":
            raise EvidenceFormat("the certificate has a BOOLEAN that is not DER")
        value = entry.content(OCTET_STRING)
        entry.end()
        if name in extensions:
            raise EvidenceFormat("the certificate has an extension twice")
        extensions[name] = Extension(critical, value)
    entries.end()
    return extensions


def _time(validity: Reader) -> datetime:
    short = validity.at(UTC_TIME)
    text = validity.content(UTC_TIME if short else GENERALIZED_TIME)
    match = (_UTC if short else _GENERALIZED).fullmatch(text)
    if match is None:
        raise EvidenceFormat("the certificate has a time that is not DER")
    year, month, day, hour, minute, second = (int(digits) for digits in match.groups())
    if short:
        year += 1900 if year >= _PIVOT_YEAR else 2000
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:  # a 13th month, for example
        raise EvidenceFormat("the certificate has a time that does not exist") from error
