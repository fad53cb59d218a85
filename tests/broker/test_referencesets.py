"""Named sets of reference values: added, pinned, retired and deleted."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.broker.support import OPERATOR, A, B, Place, stored_sets
from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker.judgement import Judgement
from verdictd_py.documents import referencesets
from verdictd_py.documents.referencesets import ReferenceSet
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.events import ReferenceAdded, ReferenceDeleted, ReferenceRetired
from verdictd_py.errors import (
    AlreadyExists,
    EvidenceFormat,
    NotFound,
    PolicyInvalid,
    RequestError,
)

LATER = NOW + timedelta(days=1)


def remember(place: Place, *, bound: bool = True) -> None:
    """Let the history have a guest with the id `id`, that was accepted."""
    guest = replace(VERIFIED, claims={"mrTd": A, "rtmr1": B, "tcbStatus": "UpToDate"})
    refusal = None if bound else EvidenceFormat("refused")
    appraisal = Appraisal("id", NOW, "tdx", "test", guest, bound=bound, refusal=refusal)
    place.history.remember(Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx")))


def retired_sets(*names: str) -> str:
    sets = json.loads(stored_sets(*names))
    for made in sets["tdx"].values():
        made["retiredAt"] = NOW.isoformat()
    return json.dumps(sets)


async def test_a_set_by_hand_has_its_values_caller_time_and_expiry() -> None:
    place = Place()
    made = await place.sets.add(OPERATOR, "tdx", "new", {"rtmr1": [B, A, B]}, LATER.isoformat())
    assert made == ReferenceSet({"rtmr1": (B, A)}, "operator", NOW, expires_at=LATER)
    assert referencesets.parse(place.store.texts["referenceSets"]) == {"tdx": {"new": made}}
    assert place.events.events == [
        ReferenceAdded(
            caller="operator",
            tee="tdx",
            name="new",
            appraisal="",
            values=(f"rtmr1={B}", f"rtmr1={A}"),
        )
    ]
    assert place.prepared == 1


async def test_a_set_is_checked_with_the_policy_and_the_data_of_its_tee() -> None:
    place = Place(
        **{
            "tdxData": json.dumps({"rtmr1": [A]}),
            "sgxPolicy.rego": "of sgx",
            "sgxData": '{"svn": 3}',
        }
    )
    await place.sets.add(OPERATOR, "tdx", "new", {"rtmr1": [B]}, "")
    signer = "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo="
    await place.sets.add(OPERATOR, "sgx", "new", {"mrSigner": [signer]}, "")
    assert [(each.policy, each.reference.values) for each in place.tester.checked] == [
        ("old", {"rtmr1": [A, B]}),
        ("of sgx", {"svn": 3, "mrSigner": [signer]}),
    ]
    assert place.tester.tees == ["tdx", "sgx"]


async def test_a_set_of_a_tee_without_data_is_checked_by_itself() -> None:
    place = Place()
    del place.store.texts["tdxData"]
    await place.sets.add(OPERATOR, "tdx", "new", {"rtmr1": [B]}, "")
    assert [dict(each.reference.values) for each in place.tester.checked] == [{"rtmr1": [B]}]


async def test_a_set_is_not_added_next_to_data_that_the_policy_does_not_read() -> None:
    place = Place(**{"tdxPolicy.rego": "data.rack", "tdxData": '{"rack": ["a"]}'})
    await place.sets.add(OPERATOR, "tdx", "new", {"rtmr1": [B]}, "")
    for text in ("other", None):
        place = Place(**{"tdxPolicy.rego": "other", "tdxData": '{"rack": ["a"]}'})
        if text is None:
            del place.store.texts["tdxPolicy.rego"]
        with pytest.raises(PolicyInvalid, match="no policy reads 'rack'"):
            await place.sets.add(OPERATOR, "tdx", "new", {"rtmr1": [B]}, "")
        assert "referenceSets" not in place.store.texts


@pytest.mark.parametrize(
    ("tee", "name", "values", "expires", "error"),
    [
        ("csv", "new", {"rtmr1": [A]}, "", RequestError),
        ("tdx", "old", {"rtmr1": [A]}, "", AlreadyExists),
        ("tdx", "a/b", {"rtmr1": [A]}, "", RequestError),
        ("tdx", "new", {"rtmr1": ["aa"]}, "", RequestError),
        ("tdx", "new", {"mrSigner": [A]}, "", RequestError),
        ("tdx", "new", {}, "", RequestError),
        ("tdx", "new", {"rtmr1": [A]}, NOW.isoformat(), RequestError),
        ("tdx", "new", {"rtmr1": [A]}, "tomorrow", RequestError),
    ],
)
async def test_a_set_that_is_wrong_is_not_added(
    tee: str, name: str, values: dict[str, list[str]], expires: str, error: type[Exception]
) -> None:
    place = Place(referenceSets=stored_sets("old"))
    with pytest.raises(error):
        await place.sets.add(OPERATOR, tee, name, values, expires)
    assert place.store.texts["referenceSets"] == stored_sets("old")
    assert place.events.events == []
    assert place.prepared == 0


async def test_a_set_of_what_a_guest_measured_names_its_evidence() -> None:
    place = Place(tdxData=json.dumps({"mrTd": [A]}))
    remember(place)
    made = await place.sets.pin(OPERATOR, "id", "new", ("mrTd", "rtmr1"), LATER.isoformat())
    assert made == ReferenceSet(
        {"mrTd": (A,), "rtmr1": (B,)},
        "operator",
        NOW,
        evidence=VERIFIED.digest,
        appraisal="id",
        expires_at=LATER,
    )
    assert referencesets.parse(place.store.texts["referenceSets"]) == {"tdx": {"new": made}}
    (event,) = place.events.of(ReferenceAdded)
    assert (event.appraisal, event.values) == ("id", (f"mrTd={A}", f"rtmr1={B}"))


async def test_without_fields_a_set_has_what_is_not_pinned_by_data_and_sets() -> None:
    place = Place(
        tdxData=json.dumps({"mrTd": [B], "rtmr0": [A], "rtmr2": [A], "rtmr3": [A]}),
        referenceSets=stored_sets("other", values={"mrSeam": [A], "mrSignerSeam": [A]}),
    )
    guest = replace(VERIFIED, claims=dict.fromkeys(TEES.measurements("tdx"), B))
    appraisal = Appraisal("id", NOW, "tdx", "test", guest, bound=True, refusal=None)
    place.history.remember(Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx")))
    made = await place.sets.pin(OPERATOR, "id", "new", (), "")
    assert set(made.values) == {"rtmr1", "mrConfigId", "mrOwner", "mrOwnerConfig"}


async def test_a_guest_whose_evidence_is_not_bound_is_not_pinned() -> None:
    place = Place()
    remember(place, bound=False)
    with pytest.raises(RequestError, match="not bound to its key"):
        await place.sets.pin(OPERATOR, "id", "new", ("mrTd",), "")
    with pytest.raises(NotFound):
        await place.sets.pin(OPERATOR, "other", "new", ("mrTd",), "")
    assert "referenceSets" not in place.store.texts


async def test_a_retired_set_accepts_nothing_and_stays_listed() -> None:
    place = Place(referenceSets=stored_sets("old", "kernel"))
    made = await place.sets.retire(OPERATOR, "tdx", "old")
    assert made == ReferenceSet({"rtmr1": (A,)}, "a", NOW, retired_at=NOW)
    assert place.states() == {"old": "retired", "kernel": "in force"}
    assert place.events.events == [ReferenceRetired(caller="operator", tee="tdx", name="old")]
    for tee, name in (("tdx", "none"), ("sgx", "old")):
        with pytest.raises(NotFound):
            await place.sets.retire(OPERATOR, tee, name)
    with pytest.raises(RequestError):
        await place.sets.retire(OPERATOR, "csv", "old")


async def test_sets_are_listed_by_name_with_their_state() -> None:
    place = Place()
    assert await place.sets.list_sets(OPERATOR, "tdx") == {}
    sets = json.loads(stored_sets("b", "a", "c"))
    sets["tdx"]["a"]["retiredAt"] = NOW.isoformat()
    sets["tdx"]["c"]["expiresAt"] = NOW.isoformat()
    place.store.texts["referenceSets"] = json.dumps(sets)
    listed = await place.sets.list_sets(OPERATOR, "tdx")
    assert [(name, state) for name, (_, state) in listed.items()] == [
        ("a", "retired"),
        ("b", "in force"),
        ("c", "expired"),
    ]
    assert listed["b"][0].values == {"rtmr1": (A,)}
    assert await place.sets.list_sets(OPERATOR, "sgx") == {}
    with pytest.raises(RequestError):
        await place.sets.list_sets(OPERATOR, "csv")


async def test_only_a_set_that_is_not_in_force_is_deleted() -> None:
    place = Place(referenceSets=stored_sets("old", "kernel"))
    with pytest.raises(RequestError, match="is in force"):
        await place.sets.delete(OPERATOR, "tdx", "old")
    assert place.store.texts["referenceSets"] == stored_sets("old", "kernel")
    await place.sets.retire(OPERATOR, "tdx", "old")
    prepared = place.prepared
    await place.sets.delete(OPERATOR, "tdx", "old")
    assert place.states() == {"kernel": "in force"}
    assert place.events.of(ReferenceDeleted) == [
        ReferenceDeleted(caller="operator", tee="tdx", name="old")
    ]
    assert place.prepared == prepared + 1
    for tee, name in (("tdx", "none"), ("sgx", "kernel")):
        with pytest.raises(NotFound):
            await place.sets.delete(OPERATOR, tee, name)


@pytest.mark.parametrize(
    ("data", "other", "deleted"),
    [
        ({}, None, False),
        ({"rtmr1": []}, None, False),
        ({"rtmr2": [A]}, None, False),
        ({"rtmr1": [A]}, None, True),
        ({}, {"rtmr2": [A]}, False),
        ({}, {"rtmr1": [B]}, True),
    ],
)
async def test_a_deletion_that_would_open_a_list_is_refused(
    data: object, other: dict[str, list[str]] | None, *, deleted: bool
) -> None:
    """An empty list accepts any value. The other set is retired too, and keeps the list closed."""
    sets = json.loads(retired_sets("old"))
    if other is not None:
        more = json.loads(retired_sets("other"))["tdx"]["other"]
        sets["tdx"]["other"] = {**more, "values": other}
    place = Place(tdxData=json.dumps(data), referenceSets=json.dumps(sets))
    if deleted:
        await place.sets.delete(OPERATOR, "tdx", "old")
        assert "old" not in place.states()
    else:
        with pytest.raises(RequestError, match="without this set any value of rtmr1 would be"):
            await place.sets.delete(OPERATOR, "tdx", "old")
        assert place.states()["old"] == "retired"
        assert place.events.events == []


async def test_a_deletion_next_to_data_that_cannot_be_read_is_refused() -> None:
    """Whether it would open a list is not known."""
    place = Place(tdxData="{", referenceSets=retired_sets("old"))
    with pytest.raises(PolicyInvalid):
        await place.sets.delete(OPERATOR, "tdx", "old")
    assert place.states() == {"old": "retired"}


async def test_a_deletion_succeeds_under_a_policy_that_does_not_work() -> None:
    place = Place(tdxData=json.dumps({"rtmr1": [A]}), referenceSets=retired_sets("old"))
    place.tester.refuses = lambda checked: True
    await place.sets.delete(OPERATOR, "tdx", "old")
    assert place.states() == {}


async def test_data_that_is_emptied_during_a_deletion_is_not_opened() -> None:
    """The deletion is stored only while the data that it relied on is still the same."""
    place = Place(tdxData=json.dumps({"rtmr1": [A]}), referenceSets=retired_sets("old"))
    put = place.store.put

    async def emptied_first(*args: object, **more: object) -> str:
        place.store.put = put  # type: ignore[method-assign]
        place.store.texts["tdxData"] = "{}"
        return await put(*args, **more)  # type: ignore[arg-type]

    place.store.put = emptied_first  # type: ignore[method-assign]
    with pytest.raises(RequestError, match="any value of rtmr1 would be accepted"):
        await place.sets.delete(OPERATOR, "tdx", "old")
    assert place.states() == {"old": "retired"}
