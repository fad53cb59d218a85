"""Rights of the client API's callers."""

from __future__ import annotations

import pytest

from verdictd_py.domain.callers import ROLES, Caller, Right
from verdictd_py.errors import NotAuthorized

ALLOWED = {
    "wrap": {Right.WRAP},
    "operator": {Right.WRAP, Right.MANAGE},
    "admin": {Right.WRAP, Right.MANAGE, Right.READ_KEYS, Right.UNWRAP},
}


@pytest.mark.parametrize("role", ALLOWED)
@pytest.mark.parametrize("right", Right)
def test_a_role_has_its_rights_and_no_other(role: str, right: Right) -> None:
    """defects.md 11: access to the client API alone gives no right."""
    caller = Caller("certificate build-farm", ROLES[role])
    if right in ALLOWED[role]:
        caller.require(right)
    else:
        with pytest.raises(NotAuthorized, match=f"certificate build-farm has no right to {right};"):
            caller.require(right)


def test_a_caller_without_rights_is_denied_everything() -> None:
    for right in Right:
        with pytest.raises(NotAuthorized):
            Caller("nobody", frozenset()).require(right)


def test_there_are_no_further_roles() -> None:
    assert set(ROLES) == set(ALLOWED)
