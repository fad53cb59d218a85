"""Wrapped keys: names and sizes of the ciphers, and names of keys in packets and requests.

Guests' requests and ocicrypt's packets are both parsed into these values. The ciphers themselves
are in `broker.ciphers`.
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
"""The only `key_length` of both wire protocols."""


class Algorithm(Enum):
    """Cipher that wraps a key. The value is the name in newer packets (`wrap_type`)."""

    AES_GCM = "A256GCM"
    A256CTR = "A256CTR"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cipher that a packet of any generation means by `text`.

        Raises:
            RequestError: the cipher is not supported.
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
        """Size of the IV in bytes (wire-keyprovider.md, "Annotation packet")."""
        return 12 if self is Algorithm.AES_GCM else 16

    @property
    def tag_bytes(self) -> int:
        """Size of the tag at the end of the ciphertext in bytes; CTR has no tag."""
        return 16 if self is Algorithm.AES_GCM else 0

    @property
    def legacy_name(self) -> str:
        """Name in packets of the first generation (`algorithm`)."""
        return "AES" if self is Algorithm.AES_GCM else self.value


@dataclass(frozen=True, slots=True)
class WrappedBlob:
    """One encrypted layer key, from either wire protocol.

    Attributes:
        key_id: name of the key that decrypts it.
        iv: the IV as sent; `ciphers.decrypt` checks its length.
        ciphertext: ciphertext, followed by the tag if the algorithm has one.
    """

    key_id: KeyId
    algorithm: Algorithm
    iv: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)

    @property
    def plaintext_bytes(self) -> int:
        """Size of the plaintext in bytes, 0 if the ciphertext is shorter than its tag."""
        return max(len(self.ciphertext) - self.algorithm.tag_bytes, 0)


_SCHEME: Final = re.compile(r"kbs(?:\+[a-z0-9][a-z0-9.-]{0,63})?://")
_HOST: Final = re.compile(  # authority without a user: empty, or a name or [v6] with a port
    r"(?:(?:[A-Za-z0-9][A-Za-z0-9._-]{0,254}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?)?"
)


@dataclass(frozen=True, slots=True)
class KbsUri:
    """URI of a key in guest-components: `kbs://[host]/<repo>/<type>/<tag>`.

    The host is retained because guests read it; the broker uses the key only.
    """

    host: str
    key_id: KeyId

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `kbs://[host]/r/t/t` or `kbs+<plugin>://[host]/r/t/t`, also without the scheme.

        Raises:
            RequestError: the text has another form. The message does not repeat the text.
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


def parse_key_name(text: str) -> KeyId:
    """Return the key that a guest or a packet of any generation means by `text`.

    The text is a name of one segment, a path of three, or a URI in any form of `KbsUri.parse`.

    Raises:
        RequestError: the text has another form.
    """
    if _SCHEME.match(text) or text.count("/") == 3:
        return KbsUri.parse(text).key_id
    return KeyId.parse(text)
