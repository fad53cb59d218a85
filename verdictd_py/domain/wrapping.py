"""Wrapped keys: the ciphers' names and sizes, and the names that packets give to keys.

Guests' requests and ocicrypt's packets both end here. The ciphers are the broker's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Self

from verdictd_py.domain.names import KeyId
from verdictd_py.encoding import quoted
from verdictd_py.errors import RequestError

KEY_BITS: Final = 256
"""The only `key_length` of both wires."""


class Algorithm(Enum):
    """Cipher of a wrapped key. The value is the name in newer packets (`wrap_type`)."""

    AES_GCM = "A256GCM"
    A256CTR = "A256CTR"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The cipher that any generation means by `text`.

        Raises:
            RequestError: none; the text names it and those there are.
        """
        if text == "AES":  # first generation's name (wire-eaa.md)
            return cls("A256GCM")
        try:
            return cls(text)
        except ValueError:
            raise RequestError(
                f"unsupported algorithm {quoted(text)}; supported are AES, A256GCM, A256CTR"
            ) from None

    @property
    def iv_bytes(self) -> int:
        """Bytes of the iv (wire-keyprovider.md, "Annotation packet")."""
        return 12 if self is Algorithm.AES_GCM else 16

    @property
    def tag_bytes(self) -> int:
        """Bytes of the tag at the end of the ciphertext; CTR has none."""
        return 16 if self is Algorithm.AES_GCM else 0

    @property
    def legacy_name(self) -> str:
        """The name in first-generation packets (`algorithm`)."""
        return "AES" if self is Algorithm.AES_GCM else self.value


@dataclass(frozen=True, slots=True)
class WrappedBlob:
    """One encrypted layer key, whichever wire it came by.

    Attributes:
        key_id: the key to open it with.
        iv: as sent; its length is checked by whoever decrypts.
        ciphertext: with the tag at its end where the algorithm has one.
    """

    key_id: KeyId
    algorithm: Algorithm
    iv: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)

    @property
    def plaintext_bytes(self) -> int:
        """Number of bytes inside, 0 for a ciphertext too short to hold its tag."""
        return max(len(self.ciphertext) - self.algorithm.tag_bytes, 0)


_SCHEME: Final = re.compile(r"kbs(?:\+[a-z0-9][a-z0-9.-]{0,63})?://")
_HOST: Final = re.compile(  # authority without user: nothing, name or [v6], and port
    r"(?:(?:[A-Za-z0-9][A-Za-z0-9._-]{0,254}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?)?"
)


@dataclass(frozen=True, slots=True)
class KbsUri:
    """Where guest-components says a key is: `kbs://[host]/<repo>/<type>/<tag>`.

    The host is kept because guests read it; this broker looks at the key only.
    """

    host: str
    key_id: KeyId

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `kbs://[host]/r/t/t`, `kbs+<plugin>://[host]/r/t/t`, and both without scheme.

        Raises:
            RequestError: another shape. The text itself is not repeated.
        """
        scheme = _SCHEME.match(text)
        host, slash, path = text[scheme.end() if scheme else 0 :].partition("/")
        if not slash or path.count("/") != 2 or not _HOST.fullmatch(host):
            raise RequestError(
                "a key's URI is kbs:///<repository>/<type>/<tag>, with a host after kbs:// "
                "if there is one"
            )
        return cls(host, KeyId.parse(path))

    def __str__(self) -> str:
        return f"kbs://{self.host}/{self.key_id}"


def key_named(text: str) -> KeyId:
    """The key that a guest or a packet of any generation means by `text`.

    That is a plain name, a path of three segments, or a URI in any spelling of
    `KbsUri.parse`.

    Raises:
        RequestError: none of them.
    """
    if _SCHEME.match(text) or text.count("/") == 3:
        return KbsUri.parse(text).key_id
    return KeyId.parse(text)
