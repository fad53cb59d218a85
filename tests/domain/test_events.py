"""The catalogue of events is complete, and the only place with their names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

import verdictd_py
from verdictd_py.domain import events
from verdictd_py.domain.events import CATALOGUE, RequestFailed, WarningBug
from verdictd_py.domain.eventtypes import Audit, Event, EventValue, FieldInfo, Level, event
from verdictd_py.domain.secrets import SecretBytes

SOURCES = Path(verdictd_py.__file__).parent
CATALOGUE_FILES = Path(events.__file__).parent
SECRET = SecretBytes(b"xyz")
NAMES = {kind.spec.name: kind for kind in CATALOGUE}

ERRORS = {"seal.refused", "storage.fault", "warning.audit", "warning.bug", "warning.task"}
DEBUG = {"connection.probed"}
WARNINGS = {
    "audit.continued", "audit.not-delivered", "audit.not-kept", "change.failed",
    "console.refused", "guest.not-judged", "guest.refused",
    "log.dropped", "trace.dropped", "release.refused", "request.failed",
    "unsafe.option", "warning.collateral", "warning.content",
    "warning.document",
    "warning.environment",
    "warning.identity", "warning.limits", "warning.policy", "warning.readiness",
    "warning.reload", "warning.shadowed",
    "warning.other-daemon", "warning.rolled-back",
    "warning.sink", "warning.storage", "warning.unpinned", "warning.worker", "wrap.refused",
}  # fmt: skip
LIMITED = {
    "guest.refused",
    "guest.not-judged",
    "release.refused",
    "collateral.used",
    "seal.refused",
}
AUDITED = {
    "console.link-created", "console.signed-in",
    "audit.began", "audit.head", "audit.not-delivered", "audit.named", "audit.pruned",
    "audit.continued", "audit.not-kept", "change.failed", "daemon.reloaded", "daemon.started",
    "daemon.stopped", "documents.used", "file.changed", "guest.accepted", "guest.disconnected",
    "image-key.unwrapped",
    "image-key.wrapped", "kbs.token-key-added",
    "key.created", "key.deleted", "key.exported", "key.registered",
    "policy.deleted", "policy.set", "reference.added", "reference.deleted", "reference.pinned",
    "reference.retired", "resource.deleted", "resource.exported",
    "resource.set", "seal.opened", "secret.released", "unsafe.option",
    "warning.reload", "warning.rolled-back",
    "warning.worker", "worker.started", "worker.stopped",
}  # fmt: skip


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Return every module of the package except the catalogue and generated code."""
    for file in SOURCES.rglob("*.py"):
        if "_generated" not in file.parts and CATALOGUE_FILES not in file.parents:
            yield file, ast.parse(file.read_text())


def test_no_module_has_the_name_of_an_event_as_a_string() -> None:
    result = [
        f"{file.relative_to(SOURCES)}:{node.lineno}: {node.value}"
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in NAMES
    ]
    assert result == []


def test_each_call_of_record_gets_a_typed_event() -> None:
    """The argument is a call of an event type, or a variable; never a string."""
    calls = [
        (file, node)
        for file, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "record"
    ]
    assert len(calls) > 50
    for file, call in calls:
        assert len(call.args) == 1, f"{file}:{call.lineno}"
        assert not call.keywords, f"{file}:{call.lineno}"
        assert isinstance(call.args[0], ast.Call | ast.Name), f"{file}:{call.lineno}"


def test_each_event_type_is_recorded_somewhere() -> None:
    used = {
        node.id
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assert {kind.__name__ for kind in CATALOGUE} - used == set()


def test_each_event_type_of_the_package_is_in_the_catalogue() -> None:
    declared = {
        node.name
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(getattr(base, "id", getattr(base, "attr", "")) == "Event" for base in node.bases)
    }
    assert declared == {kind.__name__ for kind in CATALOGUE}
    assert len(NAMES) == len(CATALOGUE) > 45


def test_levels_and_audit_are_those_that_tools_rely_on() -> None:
    assert {name for name, kind in NAMES.items() if kind.spec.level is Level.WARNING} == WARNINGS
    assert {name for name, kind in NAMES.items() if kind.spec.level is Level.ERROR} == ERRORS
    assert {name for name, kind in NAMES.items() if kind.spec.level is Level.DEBUG} == DEBUG
    assert {name for name, kind in NAMES.items() if kind.spec.audit is Audit.YES} == AUDITED
    assert {name for name, kind in NAMES.items() if kind.spec.audit is Audit.LIMITED} == LIMITED


@pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: str(kind.spec.name))
def test_a_type_has_the_name_and_the_documentation_of_its_event(kind: type[Event]) -> None:
    words = re.split("[.-]", kind.spec.name)
    assert kind.__name__ == "".join(word.title() for word in words)
    for text in (kind.__doc__ or "", *(field.info.meaning for field in kind.spec.fields.values())):
        assert re.fullmatch(r"[A-Z`][^\n|]*\.", text), text
    assert not {"event", "level", "timestamp"} & kind.spec.fields.keys()  # the log's own


@event("test.long")
class Long(Event):
    """An event of the test."""

    text: Annotated[str, FieldInfo("A text.", characters=3)]
    items: Annotated[tuple[str, ...], FieldInfo("Texts.", characters=3, items=2)] = ()
    last: Annotated[
        tuple[str, ...], FieldInfo("Texts.", characters=3, items=2, last_items=True)
    ] = ()
    secret: Annotated[SecretBytes, FieldInfo("A secret.")]
    optional: Annotated[str, FieldInfo("A text.", characters=3)] | None = None


def test_a_long_text_is_cut_with_a_marker() -> None:
    long = Long(text="abcde", secret=SECRET, items=("1", "2345", "3"), last=("1", "2", "3"))
    assert long.rendered() == {
        "text": "abc...[2 more characters]",
        "items": ["1", "234...[1 more characters]", "...[1 more items]"],
        "last": ["...[1 more items]", "2", "3"],
        "secret": "<3 secret bytes>",
    }
    assert Long(text="abc", secret=SECRET, items=("1", "2"), optional="x").rendered() == {
        "text": "abc",
        "items": ["1", "2"],
        "last": [],
        "secret": "<3 secret bytes>",
        "optional": "x",
    }


def test_a_text_of_a_megabyte_is_cut() -> None:
    rendered = RequestFailed(command="x" * 1_000_000, code="y", reason="z" * 1_000_000).rendered()
    assert len(repr(rendered)) < 3000
    frames = tuple(f"f:{number}" for number in range(1000))
    bug = WarningBug(doing="x", incident="i", error="e", frames=frames).rendered()["frames"]
    assert isinstance(bug, list)
    assert (len(bug), bug[-1]) == (101, "f:999")


@pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: str(kind.spec.name))
def test_no_event_can_be_larger_than_its_bounds(kind: type[Event]) -> None:
    values: dict[str, EventValue] = {
        field.name: ("é" * 100_000,) * 2_000 if field.info.items else "é" * 100_000
        for field in kind.spec.fields.values()
        if field.info.characters
    }
    event = kind.__new__(kind)
    for name in kind.spec.fields:
        object.__setattr__(event, name, values.get(name, 1))
    assert sum(len(repr(value)) for value in event.rendered().values()) < 600_000


def test_an_event_is_frozen_and_has_keyword_arguments() -> None:
    long = Long(text="x", secret=SECRET)
    with pytest.raises(AttributeError):
        long.text = "y"  # type: ignore[misc]  # what is tested
    with pytest.raises(TypeError):
        Long("x", secret=SECRET)  # type: ignore[call-arg]  # what is tested


@pytest.mark.parametrize(
    ("hint", "problem"),
    [
        (str, "write Annotated"),
        (Annotated[str, "text"], "cannot be a field of an event"),
        (Annotated[bytes, FieldInfo("Bytes.")], "cannot be a field of an event"),
        (Annotated[str, FieldInfo("A text.")], "maximum number of characters"),
        (Annotated[tuple[str, ...], FieldInfo("Texts.", characters=3)], "maximum number of items"),
    ],
)
def test_a_field_without_meaning_or_bounds_cannot_be_declared(hint: object, problem: str) -> None:
    declared = type("Wrong", (Event,), {"__annotations__": {"field": hint}})
    with pytest.raises(TypeError, match=f"field field: .*{problem}"):
        event("test.wrong")(declared)


def test_events_are_equal_by_type_and_fields() -> None:
    long = Long(text="x", secret=SECRET)
    assert long == Long(secret=SECRET, text="x", items=(), last=(), optional=None)
    failed = RequestFailed(command="x", code="y", reason="z")
    assert hash(failed) == hash(RequestFailed(reason="z", code="y", command="x"))
    assert long != Long(text="y", secret=SECRET)
    assert long != failed
    assert "Long(text='x'" in repr(long)
    assert SECRET.reveal().decode() not in repr(long)


@pytest.mark.parametrize(
    ("values", "wrong"),
    [({"text": "x"}, "secret"), ({"text": "x", "secret": SECRET, "more": 1}, "more")],
)
def test_an_event_with_other_fields_cannot_be_made(values: dict[str, Any], wrong: str) -> None:
    with pytest.raises(TypeError, match=rf"missing or unknown fields: {wrong}$"):
        Long(**values)
