"""JSON Schema of the documents that `-o json` and `-o yaml` write, and the command that writes it.

A document is an object whose member `schema` names its kind. A list has its objects in `items`. The
schemas of the broker's objects are made from its messages, as `data` makes their members. Members
are added in later versions, never renamed or removed.
"""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import console_commands, watching
from verdictd_py.cli.management.client import BrokerClient
from verdictd_py.cli.management.command import Command
from verdictd_py.cli.management.data import JSON_FIELDS, enumerated, is_time
from verdictd_py.cli.output.result import SCHEMA, CommandOutput
from verdictd_py.cli.output.schemas import (
    ANY,
    BOOLEAN,
    NUMBER,
    OBJECT,
    OFFLINE,
    TEXT,
    TEXT_OR_NULL,
    TEXTS,
    TIME,
    Schema,
    array,
    enum,
    members,
    ref,
)

_DONE: Final[Schema] = {**BOOLEAN, "description": "whether the change was made"}

_INTEGERS: Final = frozenset(
    {
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    }
)

_MEMBERS: Final[dict[str, Schema]] = dict.fromkeys(JSON_FIELDS, OBJECT)
"""Fields whose text is JSON, by name: documents have the value."""


_MESSAGES: Final = (
    v1.Status,
    v1.Key,
    v1.Resource,
    v1.Document,
    v1.Guest,
    v1.ConnectedGuest,
    v1.Reason,
    v1.ReferenceSet,
    v1.Accepted,
    v1.PinnedValues,
    v1.Change,
)

_OF_MESSAGE: Final = {
    "status": ("Status", "status and configuration of the broker"),
    "key": ("Key", "a key, without its bytes"),
    "guest": ("Guest", "an appraised guest, with its claims and the reasons of its refusal"),
    "connected-guest": ("ConnectedGuest", "a guest with an attested connection"),
    "reference-set": ("ReferenceSet", "a named set of reference values"),
}
_LISTS: Final = {
    "key-list": ("Key", "keys, by name"),
    "resource-list": ("Resource", "resources, by path"),
    "document-list": ("Document", "policies and data, by name"),
    "guest-list": ("Guest", "appraised guests, the newest first"),
    "connected-guest-list": ("ConnectedGuest", "connected guests, the first to connect first"),
    "reference-set-list": ("ReferenceSet", "named sets of reference values, by name"),
}
_OTHERS: Final[dict[str, tuple[str, Schema]]] = {
    "error": (
        "why a command failed",
        members(
            status={**NUMBER, "description": "exit status of the program"},
            code={
                **TEXT,
                "description": "usage, no-broker, ambiguous, or the gRPC status of the answer",
            },
            message=TEXT,
        ),
    ),
    console_commands.KIND: (
        "a link that signs in to the web console once",
        members(url=TEXT, valid_seconds=NUMBER),
    ),
    "done": ("a change; `name` is the changed object", members(done=_DONE, name=TEXT_OR_NULL)),
    "content": (
        "a stored content",
        members(name=TEXT, encoding=enum("base64", "text"), content=TEXT),
    ),
    "stored-content": (
        "a content that was stored: why guests cannot use it, and what was converted",
        members(done=_DONE, name=TEXT, problems=TEXTS, warnings=TEXTS, converted=TEXTS),
    ),
    "stored-document": (
        "a policy or data that was stored",
        {"allOf": [ref("Document"), members(done=_DONE)]},
    ),
    "key-bytes": (
        "the bytes of a key, in base64",
        members(name=TEXT, key={**TEXT, "contentEncoding": "base64"}),
    ),
    "keyring": (
        "the OpenPGP certificates, as text, and their fingerprints",
        members(keyring=TEXT, fingerprints=TEXTS),
    ),
    "reference": (
        "reference data: the values that decide, and the stored file",
        members(
            name=TEXT,
            values=ANY,
            stored=ANY,
            unpinned=TEXTS,
            unread=TEXTS,
            problem=TEXT,
        ),
    ),
    "reference-set-difference": (
        "the fields in which two named sets differ",
        members(
            first=TEXT,
            second=TEXT,
            fields=array(members(field=TEXT, first=TEXTS, second=TEXTS)),
        ),
    ),
    "pin": (
        "what a pin adds to the reference data",
        {"allOf": [ref("PinnedValues"), members(done=_DONE)]},
    ),
    watching.KIND: (
        "an object of a list that `--watch` reports, one document on each line",
        members(change=enum("added", "changed", "removed"), item=OBJECT),
    ),
}

KINDS: Final = tuple(sorted((*_OF_MESSAGE, *_LISTS, *_OTHERS, *OFFLINE)))
"""Kinds of documents."""


def schema() -> Schema:
    """Return the JSON Schema of every document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Documents that verdict-py and verdictd-py write as JSON or YAML",
        "oneOf": [ref(kind) for kind in KINDS],
        "$defs": _definitions(),
    }


def schema_of(kind: str) -> Schema:
    """Return the JSON Schema of one kind of document."""
    everything = schema()
    names = _referenced(everything["$defs"], kind)
    definitions = {name: everything["$defs"][name] for name in sorted(names)}
    return {**everything, "title": kind, "oneOf": [ref(kind)], "$defs": definitions}


def _referenced(definitions: dict[str, Schema], name: str) -> set[str]:
    """Return the names of all definitions on which one depends, with its own."""
    names, pending = set[str](), [name]
    while pending:
        current = pending.pop()
        if current not in names:
            names.add(current)
            text = json.dumps(definitions[current])
            pending += [other for other in definitions if f'"#/$defs/{other}"' in text]
    return names


def _definitions() -> dict[str, Schema]:
    found = {kind: _document(kind, text, ref(name)) for kind, (name, text) in _OF_MESSAGE.items()}
    for kind, (name, text) in _LISTS.items():
        listed = members(items=array(ref(name)))
        if kind == "connected-guest-list":
            listed = members(items=array(ref(name)), connected=NUMBER)
        found[kind] = _document(kind, text, listed)
    for kind, (text, content) in (_OTHERS | OFFLINE).items():
        found[kind] = _document(kind, text, content)
    found |= {message.DESCRIPTOR.name: _message(message.DESCRIPTOR) for message in _MESSAGES}
    return dict(sorted(found.items()))


def _document(kind: str, text: str, content: Schema) -> Schema:
    return {
        "description": text,
        "allOf": [members(schema={"const": SCHEMA + kind}), content],
    }


def _message(descriptor: Any) -> Schema:  # noqa: ANN401  # two types of descriptors
    return members(**{field.name: _field(field) for field in descriptor.fields})


def _field(field: Any) -> Schema:  # noqa: ANN401  # as above
    single = _MEMBERS.get(field.name) or _type(field)
    return array(single) if field.is_repeated else single


def _type(field: Any) -> Schema:  # noqa: ANN401  # as above
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return ref(field.message_type.name)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return enum(*(enumerated(value.name) for value in field.enum_type.values))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return BOOLEAN
    if field.type in _INTEGERS:
        return NUMBER
    return TIME if is_time(field.name) else TEXT


async def _show(client: BrokerClient, options: Namespace) -> CommandOutput:
    del client
    found = schema() if options.kind is None else schema_of(options.kind)
    text = json.dumps(found, indent=1) + "\n"
    return CommandOutput("", found, raw=text.encode())


COMMAND: Final = Command(
    "schema",
    "JSON Schema of the output with -o json, of every command or one kind",
    _show,
    {"kind": {"nargs": "?", "metavar": "KIND", "choices": KINDS, "help": "such as guest-list"}},
)
"""It needs no broker."""
