"""JSON Schema of documents that need no broker, and the parts of which schemas consist."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
NUMBER: Final[Schema] = {"type": "integer"}
OBJECT: Final[Schema] = {"type": "object"}
ANY: Final[Schema] = {}
TIME: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
TEXT_OR_NULL: Final[Schema] = {"type": ["string", "null"]}


def array(items: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def members(**members: Schema) -> Schema:
    """Return the schema of an object that has all of these members."""
    return {"type": "object", "properties": members, "required": list(members)}


def enum(*names: str) -> Schema:
    """Return the schema of a text that is one of these."""
    return {"type": "string", "enum": list(names)}


def ref(name: str) -> Schema:
    """Return a reference to a definition."""
    return {"$ref": f"#/$defs/{name}"}


TEXTS: Final = array(TEXT)
REASON: Final = members(rule=TEXT, measured=TEXT, expected=TEXT, text=TEXT)
"""Reason of a report, whose members `Reason.as_json` returns."""
LINES: Final = array(NUMBER)

_AUDIT_RECORD: Final = members(file=TEXT, number=NUMBER, record=OBJECT)

_RULE: Final = members(
    rule=TEXT,
    state=enum("defined", "undefined", "function", "failed"),
    value=ANY,
    lines=LINES,
)
_CLAIM: Final = members(
    claim=TEXT,
    measured=ANY,
    how=enum("one of", "each one of", "at least", "false"),
    expected=ANY,
    result=enum("fits", "differs", "any value"),
)
_COMPARISON: Final = members(
    line=NUMBER, source=TEXT, left=TEXT, operator=TEXT, right=TEXT, result=BOOLEAN
)
_COVERED: Final = members(rule=TEXT, kind=enum("value", "function"), lines=LINES, decided=BOOLEAN)

_COLLATERAL: Final[Schema] = {
    "type": "object",
    "properties": {
        "file": TEXT,
        "tee": TEXT,
        "fmspc": TEXT,
        "ca": TEXT,
        "issued": TEXT,
        "until": TEXT,
        "evaluation": {"type": ["integer", "string"]},
        "problem": TEXT,
    },
    "required": ["file", "problem"],
}
_AUDIT_FILE: Final = members(
    file=TEXT, records=NUMBER, digest=TEXT, signed=NUMBER, since=ANY, until=ANY
)

OFFLINE: Final[dict[str, tuple[str, Schema]]] = {
    "config-validation": (
        "the faults of a configuration file",
        members(
            file=TEXT,
            valid=BOOLEAN,
            faults=array(
                members(line={"type": ["integer", "null"]}, setting=TEXT, message=TEXT),
            ),
        ),
    ),
    "diagnosis": (
        "whether a broker can start and serve guests; the worst result, and that of each check",
        members(
            result=enum("ok", "warning", "failure"),
            checks=array(
                members(
                    check=TEXT,
                    subject=TEXT,
                    result=enum("ok", "warning", "failure"),
                    message=TEXT,
                )
            ),
        ),
    ),
    "setting-list": (
        "the settings in force, without secrets, and the source of each",
        members(
            items=array(
                members(
                    name=TEXT,
                    value=ANY,
                    source=enum("default", "file", "environment", "command line"),
                    where=TEXT,
                )
            ),
        ),
    ),
    "policy-check": (
        "whether a policy can be used",
        members(usable=BOOLEAN, syntax=enum("v1", "v0", ""), rules=TEXTS, problem=TEXT),
    ),
    "policy-test": (
        "what a policy decides about a guest, and why",
        members(
            verdict=enum("accepted", "refused"),
            allow=BOOLEAN,
            tee=TEXT_OR_NULL,
            error=TEXT,
            reasons=array(REASON),
            rules=array(_RULE),
            claims=array(_CLAIM),
            comparisons=array(_COMPARISON),
            comparisonsMade=NUMBER,
            notes=TEXTS,
        ),
    ),
    "policy-coverage": (
        "what each rule of a policy decided for recorded guests",
        members(
            guests=NUMBER,
            accepted=NUMBER,
            refused=NUMBER,
            rules=array(_COVERED),
            neverDecided=TEXTS,
            linesNotReached=LINES,
            problems=array(members(file=TEXT, problem=TEXT)),
        ),
    ),
    "appraisal": (
        "the appraisal of a certificate or a quote by `verdictd-py appraise`",
        members(
            verdict=enum("accepted", "refused"),
            code=TEXT,
            tee=TEXT_OR_NULL,
            tcbStatus=TEXT_OR_NULL,
            advisoryIds=TEXTS,
            claims=OBJECT,
            reasons=array(REASON),
        ),
    ),
    "collateral-list": (
        "collateral in files, with its validity and its problem",
        members(items=array(_COLLATERAL)),
    ),
    "event-log": (
        "a boot event log; `events` only with `show`",
        members(claims=OBJECT, mismatches=array(REASON)),
    ),
    "audit-record": ("a record of the audit trail as it is stored", _AUDIT_RECORD),
    "audit-record-list": (
        "records of the audit trail in the order of time",
        members(items=array(_AUDIT_RECORD)),
    ),
    "audit-verification": (
        "whether an audit trail was changed",
        members(
            changed=BOOLEAN,
            problems=TEXTS,
            remarks=TEXTS,
            files=array(_AUDIT_FILE),
        ),
    ),
}
"""Kinds of documents of `verdictd-py`, with their descriptions."""
