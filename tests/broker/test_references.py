"""Reference data of a TEE as it decides, lists that are replaced, and pins."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from tests.broker.support import OPERATOR, A, B, Place, stored_sets
from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker.judgement import Judgement
from verdictd_py.broker.pinning import PinChange
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.events import PolicySet, ReferencePinned
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Conflict, EvidenceFormat, NotFound, PolicyInvalid, RequestError

GUEST = replace(VERIFIED, claims={"mrTd": A, "rtmr1": B})
NOT_PINNED = tuple(name for name in TEES.measurements("tdx") if name != "rtmr1")


def remember(place: Place, *, bound: bool = True) -> None:
    """Let the history have a guest with the id `id`, that was accepted."""
    refusal = None if bound else EvidenceFormat("refused")
    appraisal = Appraisal("id", NOW, "tdx", "test", GUEST, bound=bound, refusal=refusal)
    place.history.remember(Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx")))


def stored(place: Place) -> object:
    return json.loads(place.store.texts["tdxData"])


async def test_the_view_has_the_stored_text_and_what_decides() -> None:
    place = Place(
        **{
            "tdxPolicy.rego": "data.rtmr1",
            "tdxData": '{"mrTd": [], "rtmr1": []}',
            "referenceSets": stored_sets("new"),
        }
    )
    view = await place.references.view(OPERATOR, "tdx")
    assert (str(view.name), view.stored) == ("tdxData", '{"mrTd": [], "rtmr1": []}')
    assert view.deciding is not None
    assert view.deciding.values == {"mrTd": [], "rtmr1": [A]}
    assert (view.unpinned, view.unread, view.problem) == (NOT_PINNED, (), "")


async def test_the_view_names_values_that_the_policy_does_not_read() -> None:
    place = Place(
        **{
            "tdxPolicy.rego": "data.rtmr1",
            "tdxData": json.dumps({"mrTd": [A], "rtmr1": [A], "rtmr2": []}),
        }
    )
    assert (await place.references.view(OPERATOR, "tdx")).unread == ("mrTd",)


async def test_the_view_of_data_that_refuses_every_guest_says_why() -> None:
    place = Place(tdxData='{"mrTd": ["aa"]}')
    view = await place.references.view(OPERATOR, "tdx")
    assert (str(view.name), view.stored, view.deciding) == ("tdxData", '{"mrTd": ["aa"]}', None)
    assert (view.unpinned, view.unread) == ((), ())
    assert "'aa' is not 96 lower-case hex digits" in view.problem


async def test_there_is_no_view_of_an_unknown_tee_or_of_data_that_is_not_stored() -> None:
    with pytest.raises(RequestError):
        await Place().references.view(OPERATOR, "csv")
    with pytest.raises(NotFound):
        await Place().references.view(OPERATOR, "sgx")


async def test_replaced_lists_leave_the_others() -> None:
    place = Place(tdxData=json.dumps({"mrTd": [A], "rtmr1": [A], "rtmr2": []}))
    await place.references.replace(OPERATOR, "tdx", {"rtmr1": [B, A], "rtmr3": B})
    expected = {"mrTd": [A], "rtmr1": [B, A], "rtmr2": [], "rtmr3": [B]}
    assert stored(place) == expected
    assert [checked.reference.values for checked in place.tester.checked] == [expected]
    assert [event.name for event in place.events.of(PolicySet)] == ["tdxData"]
    assert place.prepared == 1


async def test_the_first_lists_of_a_tee_are_its_data() -> None:
    place = Place()
    del place.store.texts["tdxData"]
    await place.references.replace(OPERATOR, "tdx", {"rtmr1": [B]})
    assert stored(place) == {"rtmr1": [B]}


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"rtmr1": []}, RequestError, "'rtmr1': an empty list"),
        ({"rtmr1": [A], "rtmr2": [B, 1]}, RequestError, "^'rtmr2': "),
        ({"rtmr1": None}, RequestError, "^'rtmr1': values must be"),
        ({"rtmr1": {"a": A}}, RequestError, "^'rtmr1': values must be"),
        ({"rtmr1": ["aa"]}, PolicyInvalid, "'aa' is not 96 lower-case hex digits"),
        ({"rtmr": [A]}, PolicyInvalid, "no policy reads 'rtmr'"),
    ],
)
async def test_lists_that_do_not_pin_are_not_stored(
    values: dict[str, JsonValue], error: type[Exception], said: str
) -> None:
    place = Place(tdxData=json.dumps({"rtmr1": [A]}))
    with pytest.raises(error, match=said):
        await place.references.replace(OPERATOR, "tdx", values)
    assert stored(place) == {"rtmr1": [A]}
    assert place.events.events == []
    assert place.prepared == 0


async def test_a_pin_changes_what_its_preview_has() -> None:
    place = Place(
        tdxData=json.dumps({"mrTd": [B], "rtmr2": [A]}),
        referenceSets=stored_sets("new", values={"rtmr1": [B]}),
    )
    remember(place)
    fields = ("rtmr1", "mrTd")
    preview = await place.references.preview_pin(OPERATOR, "id", fields)
    assert (preview.judgement.id, str(preview.name)) == ("id", "tdxData")
    assert preview.changes == (PinChange("rtmr1", (B,), ""), PinChange("mrTd", (B,), A))
    assert place.events.events == []
    made = await place.references.pin(OPERATOR, "id", fields, preview.revision)
    assert made == preview
    assert stored(place) == {"mrTd": [B, A], "rtmr2": [A]}
    assert place.tester.checked[-1].reference.values["rtmr1"] == [B]
    digest = hashlib.sha256(place.store.texts["tdxData"].encode()).hexdigest()
    assert place.events.events == [
        PolicySet(caller="operator", name="tdxData", sha256=digest),
        ReferencePinned(caller="operator", appraisal="id", name="tdxData", values=(f"mrTd={A}",)),
    ]
    assert place.prepared == 1


async def test_a_guest_that_cannot_be_pinned_has_no_preview() -> None:
    place = Place()
    remember(place, bound=False)
    for use in (
        place.references.preview_pin(OPERATOR, "id", ("mrTd",)),
        place.references.pin(OPERATOR, "id", ("mrTd",), "x.y"),
    ):
        with pytest.raises(RequestError, match="not bound to its key"):
            await use
    with pytest.raises(NotFound):
        await place.references.preview_pin(OPERATOR, "other", ("mrTd",))
    assert stored(place) == {}


@pytest.mark.parametrize("revision", ["", ".", "x", "x.", ".absent"])
async def test_a_pin_without_the_revision_of_a_preview_is_refused(revision: str) -> None:
    place = Place()
    remember(place)
    with pytest.raises(Conflict, match=r"^tdxData has changed since it was read"):
        await place.references.pin(OPERATOR, "id", ("mrTd",), revision)
    preview = await place.references.preview_pin(OPERATOR, "id", ("mrTd",))
    of_data = preview.revision.split(".")[0]
    with pytest.raises(Conflict, match=r"^referenceSets has changed since it was read"):
        await place.references.pin(OPERATOR, "id", ("mrTd",), of_data)
    assert stored(place) == {}
    assert place.events.events == []


async def test_a_pin_with_which_the_policy_does_not_work_is_refused() -> None:
    place = Place()
    remember(place)
    place.tester.refuses = lambda checked: checked.policy == "old" and checked.data != "{}"
    preview = await place.references.preview_pin(OPERATOR, "id", ("mrTd",))
    with pytest.raises(PolicyInvalid):
        await place.references.pin(OPERATOR, "id", ("mrTd",), preview.revision)
    assert stored(place) == {}
