"""Typed requests of guests, for all three generations of the wire.

Source: wire-eaa.md, "Commands". Names are validated here, so that the broker receives only
valid names; the broker decides whether the named thing exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

from verdictd_py.domain.names import LEGACY_RESOURCES, KeyId, ResourcePath, parse_resource_name
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.domain.wrapping import KEY_BITS, Algorithm, WrappedBlob, parse_key_name
from verdictd_py.encoding import JsonValue, decode_base64, quoted
from verdictd_py.errors import RequestError
from verdictd_py.protocols.eaa import answers
from verdictd_py.protocols.eaa.answers import FailureForm

MAX_BLOBS: Final = 64
"""Clients send one. An answer of 16384 bytes has capacity for about 20 real layer keys."""
MAX_KIDS: Final = 256
"""A key takes at least 50 bytes of the answer, and 16384 bytes have capacity for 327."""

_GET: Final = "Get "


class MalformedRequest(RequestError):
    """A known command with wrong parameters; it is answered and the connection stays open.

    Attributes:
        failure_form: shape of a failure that the command's client can read.
    """

    def __init__(self, message: str, failure_form: FailureForm) -> None:
        super().__init__(message)
        self.failure_form = failure_form


@dataclass(frozen=True, slots=True)
class Version:
    """`version`."""

    failure_form: ClassVar[FailureForm] = FailureForm.VERSION


@dataclass(frozen=True, slots=True)
class Echo:
    """`echo`; the connection is closed after the answer."""

    failure_form: ClassVar[FailureForm] = FailureForm.A
    data: str


@dataclass(frozen=True, slots=True)
class Blob:
    """One wrapped key.

    Attributes:
        kid: the key's name as sent, for messages.
        encrypted_data: base64 as sent, which names the plaintext in the answer.
        wrapped: the decoded blob.
    """

    kid: str
    encrypted_data: str = field(repr=False)
    wrapped: WrappedBlob


@dataclass(frozen=True, slots=True)
class Decrypt:
    """`Decrypt`: all blobs or none. No two blobs have the same `encrypted_data`."""

    failure_form: ClassVar[FailureForm] = FailureForm.A
    blobs: tuple[Blob, ...]


@dataclass(frozen=True, slots=True)
class Kid:
    """A key's name as sent, which the answer repeats, and the id of that key."""

    sent: str
    key_id: KeyId


@dataclass(frozen=True, slots=True)
class GetKek:
    """`Get KEK`; every name occurs once."""

    failure_form: ClassVar[FailureForm] = FailureForm.A
    kids: tuple[Kid, ...]


@dataclass(frozen=True, slots=True)
class GetResourceInfo:
    """`Get Resource Info`, which requests the length of a resource's base64."""

    failure_form: ClassVar[FailureForm] = FailureForm.B
    path: ResourcePath


@dataclass(frozen=True, slots=True)
class GetResource:
    """`Get Resource`, `Get <repo>/<type>/<tag>`, and `Get Policy` with its siblings."""

    failure_form: ClassVar[FailureForm] = FailureForm.B_BASE64
    path: ResourcePath


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that is not supported. The connection stays open."""

    failure_form: ClassVar[FailureForm] = FailureForm.A
    command: str

    @property
    def text(self) -> str:
        """Text of the failure to send."""
        return f"unknown command {quoted(self.command)}"


Request = Version | Echo | Decrypt | GetKek | GetResourceInfo | GetResource | Unknown


def parse(members: Mapping[str, JsonValue]) -> Request:
    """Parse a JSON object into a typed request.

    Args:
        members: from `RequestReader.next_request`.

    Raises:
        MalformedRequest: the command is known and its parameters are wrong. The answer
            has the error's `failure_form`.
        RequestError: `command` is missing or not a string. The answer has form A and the
            connection is closed.
    """
    command = members.get("command")
    if not isinstance(command, str):
        raise RequestError("a request has a member 'command', a string")
    try:
        return _parse(command, members)
    except RequestError as error:
        raise MalformedRequest(str(error), _failure_form(command)) from None


def _failure_form(command: str) -> FailureForm:
    if command == "Get Resource Info":
        return FailureForm.B
    if command.startswith(_GET) and command != "Get KEK":
        return FailureForm.B_BASE64
    return FailureForm.A


def _parse(command: str, members: Mapping[str, JsonValue]) -> Request:
    reader = _READERS.get(command)
    if reader is not None:
        return reader(members)
    name = command.removeprefix(_GET)
    if name != command and (name in LEGACY_RESOURCES or "/" in name):
        return GetResource(parse_resource_name(name))
    return Unknown(command)


def _version(members: Mapping[str, JsonValue]) -> Version:
    del members  # the command has no parameters; further members are ignored
    return Version()


def _echo(members: Mapping[str, JsonValue]) -> Echo:
    return Echo(_text(members, "data"))


def _get_resource_info(members: Mapping[str, JsonValue]) -> GetResourceInfo:
    return GetResourceInfo(parse_resource_name(_text(members, "name")))


def _get_resource(members: Mapping[str, JsonValue]) -> GetResource:
    optional = members.get("optional")
    if not isinstance(optional, dict):
        raise RequestError("'optional' is missing or not an object")
    return GetResource(parse_resource_name(_text(optional, "resource_path")))


def _decrypt(members: Mapping[str, JsonValue]) -> Decrypt:
    """Parse the blobs, merge duplicates, and refuse requests that no answer has capacity for.

    The answer names plaintexts by ciphertext, so one ciphertext with two sets of
    parameters cannot be answered. The answer's length is known before anything is
    decrypted, so a key is never released into an answer that is then refused.
    """
    blobs: dict[str, Blob] = {}
    for number, entry in enumerate(_list(members, "blobs", MAX_BLOBS)):
        blob = _blob(entry, f"blob {number}")
        known = blobs.setdefault(blob.encrypted_data, blob)
        if known.wrapped != blob.wrapped:
            raise RequestError(
                f"{quoted(blob.kid)}: another blob has the same encrypted_data, and the answer "
                "could not distinguish them; send them in separate requests"
            )
    answers.encode_plaintexts(
        (name, SecretBytes(bytes(blob.wrapped.plaintext_bytes))) for name, blob in blobs.items()
    )
    return Decrypt(tuple(blobs.values()))


def _blob(entry: JsonValue, what: str) -> Blob:
    if not isinstance(entry, dict):
        raise RequestError(f"{what} is not an object")
    try:
        kid = _text(entry, "kid")
        key_id = parse_key_name(kid)
    except RequestError as error:
        raise RequestError(f"{what}: kid: {error}") from None
    try:
        encrypted_data = _text(entry, "encrypted_data")
        key_length = entry.get("key_length")
        if key_length is not None and (type(key_length) is not int or key_length != KEY_BITS):
            raise RequestError(f"'key_length' is not {KEY_BITS}")
        wrapped = WrappedBlob(
            key_id,
            Algorithm.parse(_text(entry, "algorithm")),
            decode_base64(_text(entry, "iv"), "'iv'"),
            decode_base64(encrypted_data, "'encrypted_data'"),
        )
    except RequestError as error:
        raise RequestError(f"{kid}: {error}") from None
    return Blob(kid, encrypted_data, wrapped)


def _get_kek(members: Mapping[str, JsonValue]) -> GetKek:
    """Parse the names without duplicates, and refuse more than one answer has capacity for."""
    kids: dict[str, Kid] = {}
    for number, entry in enumerate(_list(members, "kids", MAX_KIDS)):
        if not isinstance(entry, str):
            raise RequestError(f"kid {number} is not a string")
        try:
            kids[entry] = Kid(entry, parse_key_name(entry))
        except RequestError as error:
            raise RequestError(f"kid {number}: {error}") from None
    answers.encode_keks((sent, SecretBytes(bytes(KEY_BYTES))) for sent in kids)
    return GetKek(tuple(kids.values()))


def _text(members: Mapping[str, JsonValue], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise RequestError(f"'{name}' is missing or not a string")
    return value


def _list(members: Mapping[str, JsonValue], name: str, max_entries: int) -> list[JsonValue]:
    value = members.get(name)
    if not isinstance(value, list) or not value:
        raise RequestError(f"'{name}' is missing, empty or not an array")
    if len(value) > max_entries:
        raise RequestError(f"'{name}' has {len(value)} entries, at most {max_entries} are accepted")
    return value


_READERS: Final[Mapping[str, Callable[[Mapping[str, JsonValue]], Request]]] = {
    "version": _version,
    "echo": _echo,
    "Decrypt": _decrypt,
    "Get KEK": _get_kek,
    "Get Resource Info": _get_resource_info,
    "Get Resource": _get_resource,
}
