"""Which reference values the measurements of a guest would add."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker.judgement import Judgement
from verdictd_py.broker.pinning import PinChange, add_values, compute_changes
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyRefused, Reason, ReasonKind, RequestError

A, B, C = "aa" * 48, "bb" * 48, "cc" * 48
GUEST = replace(VERIFIED, claims={"mrTd": A, "rtmr0": B, "rtmr1": 7, "tcbStatus": "UpToDate"})
MEASUREMENTS = ("mrTd", "rtmr0", "rtmr1", "rtmr2")


def judgement(*refused: str) -> Judgement:
    """Return the judgement of the guest, accepted or refused by these rules."""
    reasons = tuple(
        Reason(rule, "", "", rule, kind=TEES.named("tdx").reason_kind(rule)) for rule in refused
    )
    refusal = PolicyRefused("refused", reasons=reasons) if refused else None
    appraisal = Appraisal("id", NOW, "tdx", "test", GUEST, bound=True, refusal=refusal)
    return Judgement.of(appraisal, "192.0.2.1:5", MEASUREMENTS)


def reference(**lists: JsonValue) -> ReferenceData:
    return ReferenceData.parse(json.dumps(lists))


def test_a_refused_guest_adds_the_measurements_that_refused_it() -> None:
    """Its TCB status refused it too, and is no measurement; `mrTd` was accepted."""
    refused = judgement("tcbStatus", "rtmr0")
    assert [reason.kind for reason in refused.reasons] == [
        ReasonKind.TCB,
        ReasonKind.MEASUREMENT,
    ]
    assert compute_changes(refused, reference(rtmr0=[C]), ()) == (PinChange("rtmr0", (C,), B),)


def test_an_accepted_guest_adds_the_measurements_that_are_not_pinned() -> None:
    data = reference(mrTd=[A], rtmr1=[C], rtmr2=[C])
    assert compute_changes(judgement(), data, ()) == (PinChange("rtmr0", (), B),)


def test_named_measurements_are_added_once_and_no_others() -> None:
    made = compute_changes(judgement("rtmr0"), reference(mrTd=[C, B]), ("mrTd", "rtmr0", "mrTd"))
    assert made == (PinChange("mrTd", (C, B), A), PinChange("rtmr0", (), B))


def test_a_value_that_is_accepted_already_is_not_added() -> None:
    made = compute_changes(judgement(), reference(mrTd=[C, A], rtmr0=[C]), ("mrTd", "rtmr0"))
    assert made == (PinChange("mrTd", (C, A), ""), PinChange("rtmr0", (C,), B))
    stored = add_values(reference(mrTd=[C, A], rtmr0=[C], svn=3), made)
    assert stored.values == {"mrTd": [C, A], "rtmr0": [C, B], "svn": 3}
    with pytest.raises(RequestError, match="accepted already"):
        add_values(reference(mrTd=[C, A]), made[:1])


def test_values_of_named_sets_are_not_copied_into_the_stored_data() -> None:
    """The union decides what is accepted; the stored data has the operator's own values."""
    made = compute_changes(judgement(), reference(mrTd=[C]), ("mrTd",))
    assert made == (PinChange("mrTd", (C,), A),)
    assert add_values(reference(), made).values == {"mrTd": [A]}


@pytest.mark.parametrize("field", ["tcbStatus", "reportData", "rtmr1", "rtmr2", "rtmr9", ""])
def test_only_a_measurement_that_the_guest_has_can_be_pinned(field: str) -> None:
    """`rtmr1` of this guest is no text, and it has no `rtmr2`."""
    with pytest.raises(RequestError) as refused:
        compute_changes(judgement(), reference(), ("mrTd", field))
    assert str(refused.value) == (
        f"{field!r} cannot be pinned from this guest; choose one of mrTd, rtmr0, rtmr1, rtmr2"
    )


@pytest.mark.parametrize("value", ["aa", {}, {"aa": "bb"}, None, 1, [1], ["aa", None]])
def test_a_list_that_is_not_a_list_of_texts_is_never_replaced(value: JsonValue) -> None:
    broken = reference(mrTd=value)
    with pytest.raises(RequestError, match="mrTd in the reference data is not a list of texts"):
        compute_changes(judgement(), broken, ("mrTd",))
    with pytest.raises(RequestError, match="mrTd in the reference data is not a list of texts"):
        add_values(broken, (PinChange("mrTd", (), A),))
