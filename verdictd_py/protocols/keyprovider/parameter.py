"""What the image owner wrote after `provider:<name>:`.

Source: wire-keyprovider.md, "Parameter".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from verdictd_py.domain.names import KeyId
from verdictd_py.domain.wrapping import Algorithm, KbsUri
from verdictd_py.encoding import shown
from verdictd_py.errors import RequestError
from verdictd_py.protocols.keyprovider.packet import PacketForm

MAX_PARAMETER_BYTES: Final = 4096
"""A URI of three longest names takes 1 KiB, the path of a file as much as PATH_MAX."""

_FIELDS: Final = ("keyid", "algorithm", "keypath")
_ALGORITHMS: Final = ("A256GCM", "A256CTR")


@dataclass(frozen=True, slots=True)
class ExistingKey:
    """Wrap with the key of this name, which must exist (the guide's form)."""

    key_id: KeyId

    @property
    def kid(self) -> str:
        """The key's name for the packet."""
        return str(self.key_id)

    @property
    def form(self) -> PacketForm:
        """A plain kid makes the packet of the first generation."""
        return PacketForm.LEGACY

    @property
    def algorithm(self) -> Algorithm:
        """The only cipher of that generation."""
        return Algorithm.AES_GCM


@dataclass(frozen=True, slots=True)
class NewKey:
    """Wrap with a key that is made for this, named by a UUID."""


@dataclass(frozen=True, slots=True)
class KbsKey:
    """Wrap with the key at a URI, made if it is missing (coco_keyprovider's form).

    Attributes:
        kid_uri: `kbs://[host]/<repo>/<type>/<tag>`, as the packet is to name it.
        keypath: a file of the caller's host that holds the key, else None. Only the
            stdin form may open it.
    """

    key_id: KeyId
    kid_uri: str
    algorithm: Algorithm
    keypath: str | None = None

    @property
    def kid(self) -> str:
        """The key's name for the packet."""
        return self.kid_uri

    @property
    def form(self) -> PacketForm:
        """A URI makes the packet of guest-components."""
        return PacketForm.V1


Parameter = ExistingKey | NewKey | KbsKey


def parse(data: bytes) -> Parameter:
    """Reads the parameter.

    1. Nothing, or `Enabled`: a new key. 2. With a `=` or `::`: fields. 3. A name.

    Args:
        data: one value of the provider's, no longer in base64.

    Raises:
        RequestError: none of the three; the text says what would be.
    """
    if len(data) > MAX_PARAMETER_BYTES:
        raise RequestError(f"the parameter is longer than {MAX_PARAMETER_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("the parameter is not UTF-8") from None
    if text in ("", "Enabled"):  # 1: ocicrypt config/constructors.go, EncryptWithKeyProvider
        return NewKey()
    if "=" in text or "::" in text:  # 2: a name has neither
        return _kbs_key(_split(text))
    try:
        return ExistingKey(KeyId.parse(text))  # 3
    except RequestError as error:
        hint = "; write a URI as keyid=kbs:///..." if "/" in text else ""
        raise RequestError(f"the parameter is no name of a key: {error}{hint}") from None


def _split(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in text.split("::"):
        name, equals, value = part.partition("=")
        if not equals:
            raise RequestError("the parameter's fields are name=value, with :: between them")
        if name == "sample":
            raise RequestError(
                "sample= wraps with a key that everybody knows and is refused; leave it out"
            )
        if name not in _FIELDS:
            raise RequestError(
                f"the parameter has the unknown field {shown(name)}; known are "
                + ", ".join(_FIELDS)
            )
        if name in fields:
            raise RequestError(f"the parameter has the field '{name}' twice")
        fields[name] = value
    return fields


def _kbs_key(fields: dict[str, str]) -> KbsKey:
    if "keyid" not in fields:
        raise RequestError("the parameter has no keyid=; write keyid=kbs:///default/key/1")
    uri = KbsUri.parse(fields["keyid"])
    algorithm = fields.get("algorithm", Algorithm.AES_GCM.value)
    if algorithm not in _ALGORITHMS:
        raise RequestError(
            f"unsupported algorithm {shown(algorithm)}; supported are " + ", ".join(_ALGORITHMS)
        )
    keypath = fields.get("keypath")
    if keypath is not None and (not keypath or "\0" in keypath):
        raise RequestError("keypath= names no file")
    return KbsKey(uri.key_id, str(uri), Algorithm.parse(algorithm), keypath)
