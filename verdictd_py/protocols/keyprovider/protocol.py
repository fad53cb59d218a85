"""ocicrypt's JSON: requests to a key provider and its answers.

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
    quoted,
)
from verdictd_py.errors import RequestError
from verdictd_py.protocols.keyprovider import parameter
from verdictd_py.protocols.keyprovider.arrays import shorten_arrays
from verdictd_py.protocols.keyprovider.packet import (
    MAX_BYTES_VALUES,
    MAX_OPTSDATA_BYTES,
    MAX_PACKET_BYTES,
    AnnotationPacket,
)
from verdictd_py.protocols.keyprovider.parameter import MAX_PARAMETER_BYTES, Parameter

MAX_INPUT_BYTES: Final = 8 * 1024 * 1024
"""1 MiB of optsdata as an array of integers (up to five characters a byte), the longest
packet in base64 (7 MiB), and some reserve."""

DEFAULT_PROVIDER: Final = "attestation-agent"
"""The guide's name; used if a request names several providers and none is configured."""

_NOT_PROVIDERS: Final = frozenset(  # ocicrypt config/constructors.go: its other key wrappers
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
_MAX_LISTED_NAMES: Final = 5
"""Largest number of provider names in a message."""


@dataclass(frozen=True, slots=True)
class WrapRequest:
    """`keywrap`.

    Attributes:
        parameter: the key to wrap with, and the algorithm.
        optsdata: opaque data that contains the layer key.
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
    """Decode either operation, selected by `op` (the stdin form has one entry for both).

    Args:
        provider: the configured provider name; None selects the only one in the request,
            or `DEFAULT_PROVIDER` if there are several.

    Raises:
        RequestError: neither operation, ambiguous, or too large; the text never contains
            the content.
    """
    members = _input(data)
    match members.get("op"):
        case "keywrap":
            return _wrap(members, provider)
        case "keyunwrap":
            return _unwrap(members, provider)
    raise RequestError("op is neither 'keywrap' nor 'keyunwrap'")


def decode_wrap(data: bytes, *, provider: str | None) -> WrapRequest:
    """Decode a `keywrap`; arguments and errors as for `decode`."""
    request = decode(data, provider=provider)
    if not isinstance(request, WrapRequest):
        raise RequestError("op is 'keyunwrap', but wrapping needs 'keywrap'")
    return request


def decode_unwrap(data: bytes, *, provider: str | None = None) -> UnwrapRequest:
    """Decode a `keyunwrap`; arguments and errors as for `decode`."""
    request = decode(data, provider=provider)
    if not isinstance(request, UnwrapRequest):
        raise RequestError("op is 'keywrap', but unwrapping needs 'keyunwrap'")
    return request


def encode_wrapped(packet: AnnotationPacket) -> bytes:
    """Encode the output of a wrap."""
    return _results("keywrapresults", "annotation", packet.encode())


def encode_unwrapped(optsdata: SecretBytes) -> bytes:
    """Encode the output of an unwrap."""
    return _results("keyunwrapresults", "optsdata", optsdata.reveal())


def _results(operation: str, name: str, value: bytes) -> bytes:
    """Return JSON with one value as base64, which needs no escapes; several MiB of it are large."""
    before = f'{{"{operation}":{{"{name}":"'
    return b"".join((before.encode(), encode_base64(value).encode(), b'"}}'))


def _input(data: bytes) -> dict[str, JsonValue]:
    if len(data) > MAX_INPUT_BYTES:
        raise RequestError(f"the input is longer than {MAX_INPUT_BYTES} bytes")
    return decode_object(shorten_arrays(data), "the input", max_values=MAX_BYTES_VALUES)


def _wrap(members: dict[str, JsonValue], configured: str | None) -> WrapRequest:
    params = _object(members, "keywrapparams")
    by_provider = _object(_object(params, "ec"), "Parameters")
    provider = _provider(by_provider, configured)
    values = by_provider[provider]
    if not isinstance(values, list) or not values:
        raise RequestError(f"the provider {quoted(provider)} has no parameter")
    optsdata = decode_byte_string(params.get("optsdata"), "optsdata", MAX_OPTSDATA_BYTES)
    return WrapRequest(parameter.parse(_value(values[0])), SecretBytes(optsdata))


def _unwrap(members: dict[str, JsonValue], configured: str | None) -> UnwrapRequest:
    params = _object(members, "keyunwrapparams")
    annotation = decode_byte_string(params.get("annotation"), "annotation", MAX_PACKET_BYTES)
    if not annotation:
        raise RequestError("annotation is empty: the layer has no packet of this provider")
    by_provider = _object(_object(params, "dc"), "Parameters")
    try:
        provider = _provider(by_provider, configured)
    except RequestError:  # a client that decrypts may name any provider, or none
        return UnwrapRequest(annotation)
    values = by_provider[provider]
    for value in values if isinstance(values, list) else ():
        _value(value)  # ocicrypt sends `Enabled` or nothing; a malformed value is refused
    return UnwrapRequest(annotation)


def _provider(by_provider: dict[str, JsonValue], configured: str | None) -> str:
    """Return the name of the provider that the request is for.

    ocicrypt sends the parameters of all providers and of its other key wrappers to every
    provider, and never says which provider the request is for.
    """
    names = sorted(by_provider.keys() - _NOT_PROVIDERS)
    listed = ", ".join(quoted(name) for name in names[:_MAX_LISTED_NAMES]) or "none"
    if configured is not None:
        if configured not in by_provider:
            raise RequestError(
                f"the input does not name the provider {quoted(configured)} (named: {listed}); "
                f"encrypt with provider:{configured}:..."
            )
        return configured
    if len(names) == 1:
        return names[0]
    if DEFAULT_PROVIDER in names:
        return DEFAULT_PROVIDER
    raise RequestError(
        f"the input does not say which provider it is for (named: {listed}); name only one, "
        f"or '{DEFAULT_PROVIDER}' as one of them"
    )


def _value(value: JsonValue) -> bytes:
    """Decode one value; Go writes an empty one as `null` or as an empty string."""
    if value is None:
        return b""
    return decode_byte_string(value, "the provider's parameter", MAX_PARAMETER_BYTES)


def _object(members: dict[str, JsonValue], name: str) -> dict[str, JsonValue]:
    """Return a member that is an object; a missing one and `null` are empty, as in Go."""
    value = members.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"{name} is not an object")
    return value
