"""Members of the documents that `-o json` and `-o yaml` write, from the broker's messages.

Numbers are numbers, also those of 64 bits; a time is RFC 3339, or null if there is none; bytes are
base64; a value of an enumeration is its name without the prefix, in lower case.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

JSON_FIELDS: Final = ("claims", "details")
"""Fields of a `Guest` whose text is a JSON object."""


def message(answer: Message) -> dict[str, Any]:
    """Return the fields of a message by their names in the `.proto` file; none is left out."""
    return {
        field.name: _member(field, getattr(answer, field.name))
        for field in answer.DESCRIPTOR.fields
    }


def guest(answer: Any) -> dict[str, Any]:  # noqa: ANN401  # messages are made at run time
    """Return a `Guest`, with the objects that it contains as JSON."""
    objects = {name: getattr(answer, name) for name in JSON_FIELDS}
    return {
        **message(answer),
        **{n: json.loads(text) if text else {} for n, text in objects.items()},
    }


def is_time(name: str) -> bool:
    """Return whether a field of this name is a time."""
    return name == "at" or name.endswith("_at")


def enumerated(name: str) -> str:
    """Return the name of a value of an enumeration without its prefix, in lower case."""
    return name.partition("_")[2].lower()


def _member(field: Any, value: Any) -> Any:  # noqa: ANN401  # two types of descriptors
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:  # noqa: ANN401  # as above
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return message(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        found = field.enum_type.values_by_number.get(value)
        return "unspecified" if found is None else enumerated(found.name)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode()
    if is_time(field.name):
        return value or None
    return value
