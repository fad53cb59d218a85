"""ocicrypt's JSON: what a key provider gets, and what it answers.

Sources: wire-keyprovider.md, "gRPC"; containers/ocicrypt keywrap/keyprovider and
config/constructors.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import (
    JsonValue,
    decode_byte_string,
    decode_object,
    encode_base64,
    encode_object,
    shown,
)
from verdictd_py.errors import RequestError
from verdictd_py.protocols.keyprovider import parameter
from verdictd_py.protocols.keyprovider.packet import (
    MAX_OPTSDATA_BYTES,
    MAX_PACKET_BYTES,
    AnnotationPacket,
)
from verdictd_py.protocols.keyprovider.parameter import MAX_PARAMETER_BYTES, Parameter

MAX_INPUT_BYTES: Final = 8 * 1024 * 1024
"""1 MiB of optsdata as an array of integers (up to five characters a byte), the longest
packet in base64 (7 MiB), and room."""

DEFAULT_PROVIDER: Final = "attestation-agent"
"""The guide's name; asked for where a request names several and none is configured."""

_OCICRYPTS_OWN: Final = frozenset(  # ocicrypt config/constructors.go: recipients of other kinds
    {
        "gpg-pubkeyringfile",
        "gpg-recipients",
        "pkcs11-config",
        "pkcs11-pubkeys",
        "pkcs11-yamls",
        "pubkeys",
        "x509s",
        "gpg-privatekeys",
        "gpg-privatekeys-passwords",
        "privkeys",
        "privkeys-passwords",
    }
)
_NAMES_SHOWN: Final = 5
"""Of providers in a message."""


@dataclass(frozen=True, slots=True)
class WrapRequest:
    """`keywrap`.

    Attributes:
        parameter: which key, and how.
        optsdata: opaque; holds the layer key.
    """

    parameter: Parameter
    optsdata: SecretBytes


@dataclass(frozen=True, slots=True)
class UnwrapRequest:
    """`keyunwrap`.

    Attributes:
        annotation: the packet's bytes, for `AnnotationPacket.decode`.
    """

    annotation: bytes = field(repr=False)


def decode(data: bytes, *, provider: str | None) -> WrapRequest | UnwrapRequest:
    """Reads either operation, by its `op` (the stdin form has one entry for both).

    Args:
        provider: the configured provider name; None takes the only one of the request,
            else `DEFAULT_PROVIDER`.

    Raises:
        RequestError: it is neither, or ambiguous, or over a cap; never with its content.
    """
    members = _input(data)
    match members.get("op"):
        case "keywrap":
            return _wrap(members, provider)
        case "keyunwrap":
            return _unwrap(members, provider)
    raise RequestError("op is neither 'keywrap' nor 'keyunwrap'")


def decode_wrap(data: bytes, *, provider: str | None) -> WrapRequest:
    """Reads a `keywrap`; arguments and errors as `decode`."""
    request = decode(data, provider=provider)
    if not isinstance(request, WrapRequest):
        raise RequestError("op is 'keyunwrap', and wrapping needs 'keywrap'")
    return request


def decode_unwrap(data: bytes, *, provider: str | None = None) -> UnwrapRequest:
    """Reads a `keyunwrap`; arguments and errors as `decode`."""
    request = decode(data, provider=provider)
    if not isinstance(request, UnwrapRequest):
        raise RequestError("op is 'keywrap', and unwrapping needs 'keyunwrap'")
    return request


def encode_wrapped(packet: AnnotationPacket) -> bytes:
    """The output of a wrap."""
    return encode_object({"keywrapresults": {"annotation": encode_base64(packet.encode())}})


def encode_unwrapped(optsdata: SecretBytes) -> bytes:
    """The output of an unwrap."""
    return encode_object({"keyunwrapresults": {"optsdata": encode_base64(optsdata.reveal())}})


def _input(data: bytes) -> dict[str, JsonValue]:
    if len(data) > MAX_INPUT_BYTES:
        raise RequestError(f"the input is longer than {MAX_INPUT_BYTES} bytes")
    return decode_object(data, "the input")


def _wrap(members: dict[str, JsonValue], configured: str | None) -> WrapRequest:
    params = _object(members, "keywrapparams")
    given = _object(_object(params, "ec"), "Parameters")
    provider = _provider(given, configured)
    values = given[provider]
    if not isinstance(values, list) or not values:
        raise RequestError(f"the provider {shown(provider)} has no parameter")
    optsdata = decode_byte_string(params.get("optsdata"), "optsdata", MAX_OPTSDATA_BYTES)
    return WrapRequest(parameter.parse(_value(values[0])), SecretBytes(optsdata))


def _unwrap(members: dict[str, JsonValue], configured: str | None) -> UnwrapRequest:
    params = _object(members, "keyunwrapparams")
    annotation = decode_byte_string(params.get("annotation"), "annotation", MAX_PACKET_BYTES)
    if not annotation:
        raise RequestError("annotation is empty: the layer has no packet of this provider")
    given = _object(_object(params, "dc"), "Parameters")
    try:
        provider = _provider(given, configured)
    except RequestError:  # a client that decrypts may name any provider, or none
        return UnwrapRequest(annotation)
    values = given[provider]
    for value in values if isinstance(values, list) else ():
        _value(value)  # ocicrypt sends `Enabled` or nothing; a malformed value is refused
    return UnwrapRequest(annotation)


def _provider(given: dict[str, JsonValue], configured: str | None) -> str:
    """The name of the provider that is meant.

    ocicrypt sends every provider's parameters to each, beside those of its own kinds of
    recipients, and never says which one is being asked.
    """
    names = sorted(given.keys() - _OCICRYPTS_OWN)
    told = ", ".join(shown(name) for name in names[:_NAMES_SHOWN]) or "none"
    if configured is not None:
        if configured not in given:
            raise RequestError(
                f"the input names no provider {shown(configured)} (named: {told}); "
                f"encrypt with provider:{configured}:..."
            )
        return configured
    if len(names) == 1:
        return names[0]
    if DEFAULT_PROVIDER in names:
        return DEFAULT_PROVIDER
    raise RequestError(
        f"the input does not tell which provider is asked (named: {told}); name one, or "
        f"'{DEFAULT_PROVIDER}' among them"
    )


def _value(value: JsonValue) -> bytes:
    """One value; Go writes an empty one as `null` or as empty text."""
    if value is None:
        return b""
    return decode_byte_string(value, "the provider's parameter", MAX_PARAMETER_BYTES)


def _object(members: dict[str, JsonValue], name: str) -> dict[str, JsonValue]:
    """A member that is an object; missing and `null` are an empty one, as for Go."""
    value = members.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"{name} is no object")
    return value
