"""The parameter that the image owner writes after `provider:<name>:`.

Source: wire-keyprovider.md, "Parameter".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from verdictd_py.domain.names import KeyId
from verdictd_py.domain.wrapping import Algorithm, KbsUri
from verdictd_py.encoding import quoted
from verdictd_py.errors import RequestError
from verdictd_py.protocols.keyprovider.packet import PacketForm

MAX_PARAMETER_BYTES: Final = 4096
"""A URI of three names of maximum length takes 1 KiB; a file's path at most PATH_MAX."""

_FIELDS: Final = ("keyid", "algorithm", "keypath")
_ALGORITHMS: Final = ("A256GCM", "A256CTR")


@dataclass(frozen=True, slots=True)
class ExistingKey:
    """An existing key, selected by its name (the guide's form)."""

    key_id: KeyId

    @property
    def kid(self) -> str:
        """The key's name for the packet."""
        return str(self.key_id)

    @property
    def form(self) -> PacketForm:
        """Form of the packet: a plain kid is written in the first generation's form."""
        return PacketForm.LEGACY

    @property
    def algorithm(self) -> Algorithm:
        """The only cipher of that generation."""
        return Algorithm.AES_GCM


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key, named by a UUID: one key a layer, since ocicrypt requests each layer."""


@dataclass(frozen=True, slots=True)
class KbsKey:
    """The key at a URI, generated if it does not exist (coco_keyprovider's form).

    Attributes:
        kid_uri: `kbs://[host]/<repo>/<type>/<tag>`, the kid of the packet.
        keypath: path of a file on the caller's host that contains the key, or None. Only
            the stdin form may open it.
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
        """Form of the packet: a URI is written in the form of guest-components."""
        return PacketForm.V1


Parameter = ExistingKey | NewKey | KbsKey


def parse(data: bytes) -> Parameter:
    """Parse the parameter.

    1. Empty, or `Enabled`: a new key. 2. With a `=` or `::`: fields. 3. The name of a key.

    Args:
        data: one of the provider's values, decoded from base64.

    Raises:
        RequestError: none of the three; the text names the accepted forms.
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
        raise RequestError(f"the parameter is not the name of a key: {error}{hint}") from None


def _split(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in text.split("::"):
        name, equals, value = part.partition("=")
        if not equals:
            raise RequestError("the parameter's fields are name=value, with :: between them")
        if name == "sample":
            raise RequestError("sample= selects a publicly known key and is refused; remove it")
        if name not in _FIELDS:
            raise RequestError(
                f"the parameter has the unknown field {quoted(name)}; the known fields are "
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
            f"unsupported algorithm {quoted(algorithm)}; supported are " + ", ".join(_ALGORITHMS)
        )
    keypath = fields.get("keypath")
    if keypath is not None and (not keypath or "\0" in keypath):
        raise RequestError("keypath= is empty or contains NUL; write keypath=/path/to/key")
    return KbsKey(uri.key_id, str(uri), Algorithm.parse(algorithm), keypath)
