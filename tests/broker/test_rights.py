"""Every use case of an administrator first requires a right, before it reads or stores anything."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from verdictd_py.broker.administration import KeyAdministrator, ResourceAdministrator
from verdictd_py.broker.connected import ConnectedGuests
from verdictd_py.broker.documents import DocumentAdministrator
from verdictd_py.broker.explanation import Explainer
from verdictd_py.broker.history import History
from verdictd_py.broker.policytests import PolicyTests
from verdictd_py.broker.references import ReferenceAdministrator
from verdictd_py.broker.referencesets import SetAdministrator
from verdictd_py.broker.revisions import Revisions
from verdictd_py.broker.wrapping import Wrapper
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.errors import NotAuthorized

OTHER_RIGHTS = {
    (KeyAdministrator, "get"): Right.READ_KEYS,
    (Wrapper, "wrap"): Right.WRAP,
    (Wrapper, "seal"): Right.WRAP,
    (Wrapper, "unwrap"): Right.UNWRAP,
}
"""Rights of use cases; every other one requires `Right.MANAGE`."""

ADMINISTRATORS: tuple[type, ...] = (
    *(KeyAdministrator, ResourceAdministrator, DocumentAdministrator, ReferenceAdministrator),
    *(SetAdministrator, PolicyTests, Explainer, History, Wrapper, ConnectedGuests),
    Revisions,
)


class Untouched:
    """A collaborator that no use case may reach without the right."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used before the caller's right was required")


def use_cases() -> list[Any]:
    """Return every public method with a caller, so that a new one is tested as well."""
    return [
        pytest.param(kind, name, id=f"{kind.__name__}.{name}")
        for kind in ADMINISTRATORS
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        # Mutants of methods, which mutmut adds next to them, have names that are not ASCII.
        if name.isascii()
        and not name.startswith("_")
        and "caller" in inspect.signature(method).parameters
    ]


def needed(method: Any) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(method).parameters.values())
    return [each for each in parameters if each.default is each.empty and each.name != "caller"]


def built(kind: type) -> Any:
    if kind is History:
        return History()
    parameters = inspect.signature(kind).parameters.values()
    ports = {each.name: Untouched() for each in parameters if each.default is each.empty}
    if "history" in ports:
        ports["history"] = History()  # type: ignore[assignment]  # it requires the right itself
    return kind(**ports)


@pytest.mark.parametrize(("kind", "name"), use_cases())
async def test_without_its_right_a_use_case_does_nothing(kind: type, name: str) -> None:
    method = getattr(built(kind), name)
    arguments = {each.name: "x" for each in needed(method)}  # of any type: it is not looked at
    right = OTHER_RIGHTS.get((kind, name), Right.MANAGE)
    caller = Caller("uid 1000", frozenset(Right) - {right})
    with pytest.raises(NotAuthorized, match="uid 1000 has no right to"):
        await _result(method(caller=caller, **arguments))


async def _result(found: Any) -> Any:
    """Return the result of a coroutine or of a synchronous method."""
    return await found if inspect.isawaitable(found) else found
