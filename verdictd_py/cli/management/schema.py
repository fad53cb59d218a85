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
from verdictd_py.cli.management.data import enumerated, is_time
from verdictd_py.cli.output.result import SCHEMA, CommandOutput

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_NUMBER: Final[Schema] = {"type": "integer"}
_OBJECT: Final[Schema] = {"type": "object"}
_ANY: Final[Schema] = {}
_TIME: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}
_DONE: Final[Schema] = {**_BOOLEAN, "description": "whether the change was made"}

_INTEGERS: Final = frozenset(
    {
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    }
)

_MEMBERS: Final[dict[str, Schema]] = {"claims": _OBJECT}
"""Fields whose text is JSON, by name: documents have the value."""


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _members(**members: Schema) -> Schema:
    return {"type": "object", "properties": members, "required": list(members)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _enum(*names: str) -> Schema:
    return {"type": "string", "enum": list(names)}


_TEXTS: Final = _array(_TEXT)
_LINES: Final = _array(_NUMBER)

_RULE: Final = _members(
    rule=_TEXT,
    state=_enum("defined", "undefined", "function", "failed"),
    value=_ANY,
    lines=_LINES,
)
_CLAIM: Final = _members(
    claim=_TEXT,
    measured=_ANY,
    how=_enum("one of", "each one of", "at least", "false"),
    expected=_ANY,
    result=_enum("fits", "differs", "any value"),
)
_COMPARISON: Final = _members(
    line=_NUMBER, source=_TEXT, left=_TEXT, operator=_TEXT, right=_TEXT, result=_BOOLEAN
)
_COVERED: Final = _members(
    rule=_TEXT, kind=_enum("value", "function"), lines=_LINES, decided=_BOOLEAN
)

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
        _members(
            status={**_NUMBER, "description": "exit status of the program"},
            code={
                **_TEXT,
                "description": "usage, no-broker, ambiguous, or the gRPC status of the answer",
            },
            message=_TEXT,
        ),
    ),
    console_commands.KIND: (
        "a link that signs in to the web console once",
        _members(url=_TEXT, valid_seconds=_NUMBER),
    ),
    "done": ("a change; `name` is the changed object", _members(done=_DONE, name=_TEXT_OR_NULL)),
    "content": (
        "a stored content",
        _members(name=_TEXT, encoding=_enum("base64", "text"), content=_TEXT),
    ),
    "stored-content": (
        "a content that was stored: why guests cannot use it, and what was converted",
        _members(done=_DONE, name=_TEXT, problems=_TEXTS, warnings=_TEXTS, converted=_TEXTS),
    ),
    "stored-document": (
        "a policy or data that was stored",
        {"allOf": [_ref("Document"), _members(done=_DONE)]},
    ),
    "key-bytes": (
        "the bytes of a key, in base64",
        _members(name=_TEXT, key={**_TEXT, "contentEncoding": "base64"}),
    ),
    "keyring": (
        "the OpenPGP certificates, as text, and their fingerprints",
        _members(keyring=_TEXT, fingerprints=_TEXTS),
    ),
    "reference": (
        "reference data: the values that decide, and the stored file",
        _members(
            name=_TEXT,
            values=_ANY,
            stored=_ANY,
            unpinned=_TEXTS,
            unread=_TEXTS,
            problem=_TEXT,
        ),
    ),
    "reference-set-difference": (
        "the fields in which two named sets differ",
        _members(
            first=_TEXT,
            second=_TEXT,
            fields=_array(_members(field=_TEXT, first=_TEXTS, second=_TEXTS)),
        ),
    ),
    "pin": (
        "what a pin adds to the reference data",
        {"allOf": [_ref("PinnedValues"), _members(done=_DONE)]},
    ),
    watching.KIND: (
        "an object of a list that `--watch` reports, one document on each line",
        _members(change=_enum("added", "changed", "removed"), item=_OBJECT),
    ),
    "policy-check": (
        "whether a policy can be used",
        _members(usable=_BOOLEAN, syntax=_enum("v1", "v0", ""), rules=_TEXTS, problem=_TEXT),
    ),
    "policy-test": (
        "what a policy decides about a guest, and why",
        _members(
            verdict=_enum("accepted", "refused"),
            allow=_BOOLEAN,
            tee=_TEXT_OR_NULL,
            error=_TEXT,
            reasons=_array(_ref("Reason")),
            rules=_array(_RULE),
            claims=_array(_CLAIM),
            comparisons=_array(_COMPARISON),
            comparisonsMade=_NUMBER,
            notes=_TEXTS,
        ),
    ),
    "policy-coverage": (
        "what each rule of a policy decided for recorded guests",
        _members(
            guests=_NUMBER,
            accepted=_NUMBER,
            refused=_NUMBER,
            rules=_array(_COVERED),
            neverDecided=_TEXTS,
            linesNotReached=_LINES,
            problems=_array(_members(file=_TEXT, problem=_TEXT)),
        ),
    ),
}

KINDS: Final = tuple(sorted((*_OF_MESSAGE, *_LISTS, *_OTHERS)))
"""Kinds of documents."""


def schema() -> Schema:
    """Return the JSON Schema of every document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Documents that verdict-py writes with -o json and -o yaml",
        "oneOf": [_ref(kind) for kind in KINDS],
        "$defs": _definitions(),
    }


def schema_of(kind: str) -> Schema:
    """Return the JSON Schema of one kind of document."""
    everything = schema()
    names = _referenced(everything["$defs"], kind)
    definitions = {name: everything["$defs"][name] for name in sorted(names)}
    return {**everything, "title": kind, "oneOf": [_ref(kind)], "$defs": definitions}


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
    found = {kind: _document(kind, text, _ref(name)) for kind, (name, text) in _OF_MESSAGE.items()}
    for kind, (name, text) in _LISTS.items():
        members = _members(items=_array(_ref(name)))
        if kind == "connected-guest-list":
            members = _members(items=_array(_ref(name)), connected=_NUMBER)
        found[kind] = _document(kind, text, members)
    found |= {kind: _document(kind, text, members) for kind, (text, members) in _OTHERS.items()}
    found |= {message.DESCRIPTOR.name: _message(message.DESCRIPTOR) for message in _MESSAGES}
    return dict(sorted(found.items()))


def _document(kind: str, text: str, members: Schema) -> Schema:
    return {
        "description": text,
        "allOf": [_members(schema={"const": SCHEMA + kind}), members],
    }


def _message(descriptor: Any) -> Schema:  # noqa: ANN401  # two types of descriptors
    return _members(**{field.name: _field(field) for field in descriptor.fields})


def _field(field: Any) -> Schema:  # noqa: ANN401  # as above
    single = _MEMBERS.get(field.name) or _type(field)
    return _array(single) if field.is_repeated else single


def _type(field: Any) -> Schema:  # noqa: ANN401  # as above
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _ref(field.message_type.name)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _enum(*(enumerated(value.name) for value in field.enum_type.values))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _BOOLEAN
    if field.type in _INTEGERS:
        return _NUMBER
    return _TIME if is_time(field.name) else _TEXT


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
