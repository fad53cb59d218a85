"""Decoder of gRPC messages that bounds the number of values before any is built.

The library builds all values of a message in one call, which holds the interpreter lock: 8 MiB of
empty texts are four million. Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from verdictd_py.offload import SMALL_BYTES, offload

MAX_FIELDS: Final = 64 * 1024
"""Maximum number of fields in a message and the messages in it. The largest document of reference
data has about 40,000 values."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; those of groups are refused
_MAX_VARINT_BYTES: Final = 10

Deserializer = Callable[[bytes], object]


def limited(name: str, handler: Any) -> Any:  # noqa: ANN401  # the stubs of gRPC lack its attributes
    """Return a handler that decodes its requests with limits.

    Undecodable ones are answered with INVALID_ARGUMENT. gRPC itself would answer UNKNOWN, which
    means an internal error, and decode them on the event loop.

    Args:
        name: full name of the method.
        handler: its handler (`grpc.RpcMethodHandler`).
    """
    if handler.unary_unary is None:
        return _of_small_messages(handler)
    method, deserializer = handler.unary_unary, handler.request_deserializer

    @wraps(method)  # with the right that it names
    async def answer(data: bytes, context: Any) -> object:  # noqa: ANN401  # as above
        try:
            request = await decode(data, deserializer)
        except DecodeError:
            text = (
                f"the request cannot be decoded as the message of {name}; "
                "use the .proto files of this broker"
            )
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
            return None  # never reached: abort raises
        return await method(request, context)

    return grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=None, response_serializer=handler.response_serializer
    )


def _of_small_messages(handler: Any) -> Any:  # noqa: ANN401  # as above
    """Return a handler of a stream with a limit of the size of each request.

    gRPC ends the call if its deserializer raises an exception.
    """
    deserializer = partial(decode_small, deserializer=handler.request_deserializer)
    coders = {
        "request_deserializer": deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(handler.unary_stream, **coders)
    return grpc.stream_stream_rpc_method_handler(handler.stream_stream, **coders)


async def decode(data: bytes, deserializer: Deserializer) -> object:
    """Decode a message, in a thread if it is large.

    Args:
        deserializer: `FromString` of the message's class.

    Raises:
        DecodeError: the bytes are not this message, or have more than `MAX_FIELDS` fields.
    """
    return await offload(len(data), partial(_decode, data, deserializer))


def decode_small(data: bytes, deserializer: Deserializer) -> object:
    """Decode a message of a stream, on the event loop.

    Raises:
        DecodeError: the bytes are not this message, or more than `SMALL_BYTES`.
    """
    if len(data) > SMALL_BYTES:
        raise DecodeError(f"messages of streams have at most {SMALL_BYTES} bytes")
    return deserializer(data)


def _decode(data: bytes, deserializer: Deserializer) -> object:
    if len(data) > SMALL_BYTES:
        _require_few_fields(data, deserializer.__self__.DESCRIPTOR)  # type: ignore[attr-defined]
    return deserializer(data)


def _require_few_fields(data: bytes, descriptor: Any) -> None:  # noqa: ANN401  # without types
    """Require at most `MAX_FIELDS` fields, in the message and in the messages that it contains.

    Raises:
        DecodeError: there are more, or the bytes are not a message.
    """
    fields = 0
    waiting: list[tuple[Any, int, int]] = [(descriptor, 0, len(data))]
    while waiting:
        message, at, end = waiting.pop()
        while at < end:
            fields += 1
            if fields > MAX_FIELDS:
                raise DecodeError(f"the message has more than {MAX_FIELDS} fields")
            tag, at = _varint(data, at)
            length, at = _length(data, at, tag & 7)
            inner = _message_of(message, tag >> 3) if tag & 7 == _BYTES else None
            if inner is not None:
                waiting.append((inner, at, min(at + length, end)))
            at += length


def _message_of(message: Any, number: int) -> Any:  # noqa: ANN401  # as above
    """Return the descriptor of the message in a field; None for any other field."""
    field = message.fields_by_number.get(number)
    return None if field is None else field.message_type


def _length(data: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Return the length of a value, and where it begins."""
    if wire_type == _VARINT:
        return 0, _varint(data, at)[1]
    if wire_type == _BYTES:
        return _varint(data, at)
    if wire_type in (_FIXED64, _FIXED32):
        return (8 if wire_type == _FIXED64 else 4), at
    raise DecodeError("the message has a group")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(_MAX_VARINT_BYTES):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return number, at
    raise DecodeError("the message is cut off")
