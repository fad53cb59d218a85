"""A change that could not be recorded did not happen, and no change is without a record."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import verdictd_py
from tests.faults.changes import ADMIN, CHANGES, contents, prepared
from tests.support.clock import until
from tests.support.events import RecordedEvents
from tests.support.usecases import opened
from verdictd_py.domain.events import CATALOGUE
from verdictd_py.domain.eventtypes import Audit, Event
from verdictd_py.errors import StorageError, VerdictdError
from verdictd_py.storage.directory import Directory


class Recorder(RecordedEvents):
    """Recorder that fails while `is_full`, and notes what was stored at each record."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.is_full = False
        self.before: dict[str, dict[str, bytes]] = {}

    async def commit(self, *events: Event) -> None:
        await asyncio.sleep(0)
        if self.is_full:
            raise StorageError("the audit trail cannot be written")
        for event in events:
            self.before.setdefault(event.spec.name, contents(self.root))
        await super().commit(*events)


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_that_cannot_be_recorded_does_not_happen(tmp_path: Path, name: str) -> None:
    announced, change = CHANGES[name]
    recorder = Recorder(tmp_path)
    cases = opened(tmp_path, recorder)
    await prepared(cases)
    before = contents(tmp_path)
    recorder.is_full = True
    with pytest.raises(StorageError, match="audit trail"):
        await change(cases)
    assert contents(tmp_path) == before
    recorder.is_full = False
    recorder.before.clear()
    await change(cases)
    assert contents(tmp_path) != before
    assert recorder.before[announced] == before  # the record came first


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_that_fails_after_its_record_leaves_a_record_of_the_failure(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced, change = CHANGES[name]
    recorder = Recorder(tmp_path)
    cases = opened(tmp_path, recorder)
    await prepared(cases)
    before = contents(tmp_path)
    recorder.events.clear()

    def full(*_: object) -> None:
        raise StorageError("cannot be written: no space left on device")

    for operation in ("creating", "replacing", "deleting"):
        monkeypatch.setattr(Directory, operation, full)
    with pytest.raises(StorageError, match="no space left"):
        await change(cases)
    assert contents(tmp_path) == before
    audited = [event.spec.name for event in recorder.events if event.spec.audit is Audit.YES]
    audited = [name for name in audited if name != "file.changed"]  # of what the checks read
    assert (audited[0], audited[-1]) == (announced, "change.failed")
    (failed,) = recorder.named("change.failed")
    assert (failed["caller"], failed["change"], failed["code"]) == ("admin", announced, "storage")
    assert "no space left" in str(failed["reason"])


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_whose_caller_disconnects_is_completed(tmp_path: Path, name: str) -> None:
    """HTTP handlers are cancelled at their time limit; the thread that writes is not."""
    announced, change = CHANGES[name]
    recorder = Recorder(tmp_path)
    cases = opened(tmp_path, recorder)
    await prepared(cases)
    before = contents(tmp_path)
    recorder.events.clear()
    task = asyncio.ensure_future(change(cases))
    await until(lambda: task.done() or announced in recorder.names)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert contents(tmp_path) != before
    assert "change.failed" not in recorder.names


async def test_an_internal_error_is_recorded_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path)
    cases = opened(tmp_path, recorder)

    def broken(*_: object) -> None:
        raise RuntimeError("with a secret")

    monkeypatch.setattr(Directory, "creating", broken)
    with pytest.raises(RuntimeError):
        await CHANGES["key create"][1](cases)
    (failed,) = recorder.named("change.failed")
    assert (failed["code"], failed["reason"]) == ("internal", "RuntimeError")


@pytest.mark.parametrize("name", ["key create", "key delete", "resource delete", "policy delete"])
async def test_a_request_about_nothing_leaves_no_record(tmp_path: Path, name: str) -> None:
    """Otherwise the trail would announce changes that cannot be made."""
    recorder = Recorder(tmp_path)
    cases = opened(tmp_path, recorder)
    if name == "key create":
        await cases.administration.keys.create(ADMIN, "new")
    recorder.events.clear()
    with pytest.raises(VerdictdError):
        await CHANGES[name][1](cases)
    assert recorder.events == []


PACKAGE = Path(verdictd_py.__file__).parent
STORES = {"_keys", "_resources", "_documents"}
WRITING = {"create", "put", "delete"}


def unrecorded(tree: ast.AST) -> Iterator[str]:
    """Yield the calls that change a store outside of an argument of `record_and_change`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id == "record_and_change":
                continue
            if (
                isinstance(function, ast.Attribute)
                and function.attr in WRITING
                and isinstance(function.value, ast.Attribute)
                and function.value.attr in STORES
            ):
                yield ast.unparse(function)
        yield from unrecorded(node)


def test_only_recorded_changes_reach_a_store() -> None:
    """A new use case cannot forget the record."""
    for file in (PACKAGE / "broker").glob("*.py"):
        assert list(unrecorded(ast.parse(file.read_text()))) == [], file.name


def test_an_unrecorded_change_is_detected() -> None:
    text = "async def f(self):\n await self._keys.create(a)\n await record_and_change(x, "
    text += "lambda: self._keys.create(a))\n"
    assert list(unrecorded(ast.parse(text))) == ["self._keys.create"]


AUDITED = {event_type.__name__ for event_type in CATALOGUE if event_type.spec.audit is not Audit.NO}


def blocking(tree: ast.AST) -> Iterator[str]:
    """Yield the audited events that are recorded without `commit`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "record"
        ):
            for part in ast.walk(node):
                if isinstance(part, ast.Name) and part.id in AUDITED:
                    yield part.id


@pytest.mark.parametrize("package", ["broker", "listeners"])
def test_no_audited_event_blocks_the_event_loop(package: str) -> None:
    """`record` waits for the disk in the calling thread; `commit` does not."""
    for file in (PACKAGE / package).rglob("*.py"):
        assert list(blocking(ast.parse(file.read_text()))) == [], file.name


def test_an_audited_event_that_blocks_is_detected() -> None:
    assert list(blocking(ast.parse("self.e.record(KeyCreated(kid=a))"))) == ["KeyCreated"]
