"""Overlapping changes of documents: none is lost, and every stored document was checked."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.broker.support import OPERATOR, A, B, HeldTester, Place, stored_sets
from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker.changes import FALLBACK_POLICY, MAX_ATTEMPTS
from verdictd_py.broker.judgement import Judgement
from verdictd_py.documents import referencesets
from verdictd_py.documents.referencesets import MAX_SETS, ReferenceSet
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.events import PolicySet
from verdictd_py.domain.names import Name
from verdictd_py.errors import Conflict, NotFound, PolicyInvalid, RequestError, StorageError
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.ports import ANY, Document
from verdictd_py.storage.memory import MemoryDocumentStore

SETS = Name(("referenceSets",))
GUEST = replace(VERIFIED, claims={"mrTd": A})


async def during(place: Place, change: asyncio.Task[object]) -> None:
    """Wait until a change is being checked; fail if it ends before."""
    checking = asyncio.create_task(place.tester.checking.wait())
    await asyncio.wait({change, checking}, return_when=asyncio.FIRST_COMPLETED)
    assert checking.done()


async def test_a_retirement_during_an_addition_is_not_lost() -> None:
    place = Place(referenceSets=stored_sets("old"))
    _, others = place.another(HeldTester())
    place.tester.held = True
    adding = asyncio.create_task(place.sets.add(OPERATOR, "tdx", "new", {"rtmr1": [B]}, ""))
    await during(place, adding)
    await others.retire(OPERATOR, "tdx", "old")
    place.tester.go.set()
    await adding
    assert place.states() == {"old": "retired", "new": "in force"}


async def test_an_addition_during_an_addition_is_not_lost() -> None:
    place = Place()
    _, others = place.another(HeldTester())
    place.tester.held = True
    adding = asyncio.create_task(place.sets.add(OPERATOR, "tdx", "one", {"rtmr1": [B]}, ""))
    await during(place, adding)
    await others.add(OPERATOR, "tdx", "two", {"rtmr1": [A]}, "")
    place.tester.go.set()
    await adding
    assert place.states() == {"one": "in force", "two": "in force"}


async def test_a_retirement_while_all_sets_are_replaced_is_not_undone() -> None:
    """`reference set referenceSets` is a conflict; the retirement remains."""
    place = Place(referenceSets=stored_sets("old"))
    _, others = place.another(HeldTester())
    place.tester.held = True
    replacing = asyncio.create_task(
        place.documents.set_reference(OPERATOR, "referenceSets", stored_sets("old", "new").encode())
    )
    await during(place, replacing)
    await others.retire(OPERATOR, "tdx", "old")
    place.tester.go.set()
    with pytest.raises(Conflict, match="referenceSets has changed since it was read"):
        await replacing
    assert place.states() == {"old": "retired"}


async def test_all_sets_replaced_during_a_retirement_are_retired_in_the_new_text() -> None:
    place = Place(referenceSets=stored_sets("old"))
    others, _ = place.another(HeldTester())
    get = place.store.get
    replaced: list[bool] = []

    async def get_and_be_overtaken(name: Name) -> object:
        found = await get(name)
        if name == SETS and not replaced:
            replaced.append(True)
            text = stored_sets("old", "new").encode()
            await others.set_reference(OPERATOR, "referenceSets", text)
        return found

    place.store.get = get_and_be_overtaken  # type: ignore[method-assign, assignment]
    await place.sets.retire(OPERATOR, "tdx", "old")
    assert place.states() == {"old": "retired", "new": "in force"}


async def test_a_policy_is_checked_with_the_data_that_it_is_stored_with() -> None:
    """Data that changes during the check is checked too, so that no combination is unchecked."""
    place = Place()
    place.tester.refuses = lambda documents: (
        documents.policy == "new" and documents.reference.values == {"rtmr1": [B]}
    )
    others, _ = place.another(HeldTester())
    place.tester.held = True
    setting = asyncio.create_task(place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"new"))
    await during(place, setting)
    await others.set_reference(OPERATOR, "tdxData", json.dumps({"rtmr1": [B]}).encode())
    place.tester.go.set()
    with pytest.raises(PolicyInvalid):
        await setting
    assert place.store.texts["tdxPolicy.rego"] == "old"


async def test_two_concurrent_policies_are_stored_one_after_the_other() -> None:
    place = Place()
    others, _ = place.another(HeldTester())
    place.tester.held = True
    setting = asyncio.create_task(place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"one"))
    await during(place, setting)
    await others.set_policy(OPERATOR, "tdxPolicy.rego", b"two")
    place.tester.go.set()
    await setting
    assert place.store.texts["tdxPolicy.rego"] == "one"


async def test_a_pin_during_a_replacement_of_the_data_is_not_lost() -> None:
    place = Place()
    appraisal = Appraisal("id", NOW, "tdx", "test", GUEST, bound=True, refusal=None)
    place.history.remember(Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx")))
    place.another(HeldTester())
    others = place.references
    preview = await others.preview_pin(OPERATOR, "id", ("mrTd",))
    place.tester.held = True
    setting = asyncio.create_task(
        place.documents.set_reference(OPERATOR, "tdxData", b'{"rtmr1": []}')
    )
    await during(place, setting)
    await others.pin(OPERATOR, "id", ("mrTd",), preview.revision)
    place.tester.go.set()
    with pytest.raises(Conflict):
        await setting
    assert json.loads(place.store.texts["tdxData"]) == {"mrTd": [A]}


async def test_a_store_that_always_changes_is_a_conflict() -> None:
    place = Place()
    puts = 0

    async def put(name: Name, text: str, **more: object) -> str:
        nonlocal puts
        puts += 1
        raise Conflict("changed")

    place.store.put = put  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await place.sets.add(OPERATOR, "tdx", "new", {"rtmr1": [B]}, "")
    assert puts == MAX_ATTEMPTS


async def test_the_check_uses_the_sets_in_force() -> None:
    sets = json.loads(stored_sets("kernel", "gone"))
    sets["tdx"]["gone"]["retiredAt"] = NOW.isoformat()
    place = Place(referenceSets=json.dumps(sets))
    expected = {"rtmr1": [B, A, "(gone is retired)"]}
    await place.documents.set_reference(OPERATOR, "tdxData", json.dumps({"rtmr1": [B]}).encode())
    await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    assert [dict(checked.reference.values) for checked in place.tester.checked] == [expected] * 2
    deciding = await DocumentsWithSets(place.store, TEES, lambda: NOW).documents("tdx")
    assert deciding == place.tester.checked[-1]
    assert place.prepared == 2


async def test_a_policy_that_works_only_without_the_stored_data_is_refused() -> None:
    """The data is valid and the policy is not, so it must not be checked without data."""
    place = Place(tdxData='{"rtmr1": []}')
    place.tester.refuses = lambda checked: checked.policy == "new" and checked.data != "{}"
    with pytest.raises(PolicyInvalid):
        await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    assert place.store.texts["tdxPolicy.rego"] == "old"


async def test_data_that_works_only_without_the_stored_policy_is_refused() -> None:
    place = Place()
    place.tester.refuses = lambda checked: checked.policy == "old" and checked.data != "{}"
    with pytest.raises(PolicyInvalid):
        await place.documents.set_reference(OPERATOR, "tdxData", b'{"rtmr1": []}')
    assert place.store.texts["tdxData"] == "{}"


async def test_a_set_with_which_the_policy_does_not_work_is_refused() -> None:
    place = Place()
    place.tester.refuses = lambda checked: checked.policy == "old" and checked.data != "{}"
    with pytest.raises(PolicyInvalid):
        await place.sets.add(OPERATOR, "tdx", "new", {"rtmr1": [B]}, "")
    with pytest.raises(PolicyInvalid):
        await place.documents.set_reference(OPERATOR, "referenceSets", stored_sets("new").encode())
    assert "referenceSets" not in place.store.texts


async def test_a_set_can_be_retired_under_a_policy_that_does_not_work() -> None:
    place = Place(referenceSets=stored_sets("old"))
    place.tester.refuses = lambda checked: True
    await place.sets.retire(OPERATOR, "tdx", "old")
    assert place.states() == {"old": "retired"}
    assert place.prepared == 1


class Unreadable(MemoryDocumentStore):
    """A store that cannot read one document, and can still replace it: a file of mode 000."""

    unreadable = SETS

    async def get(self, name: Name) -> Document:
        if name == self.unreadable:
            raise StorageError(f"opa/{name} cannot be read or written: permission denied")
        return await super().get(name)


@pytest.mark.parametrize("name", ["referenceSets", "tdxData"])
async def test_what_cannot_be_read_is_not_edited_as_if_it_were_empty(name: str) -> None:
    """The values that it pins would be lost, and their measurements open."""
    texts = {"tdxPolicy.rego": "old", "tdxData": f'{{"mrTd": ["{A}"]}}'}
    store = Unreadable(TEES, texts | {"referenceSets": stored_sets("old")})
    store.unreadable = Name((name,))
    before = dict(store.texts)
    place = Place(store)
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "referenceSets": lambda: place.sets.add(OPERATOR, "tdx", "new", {"rtmr2": [B]}, ""),
        "tdxData": lambda: place.references.replace(OPERATOR, "tdx", {"rtmr2": [B]}),
    }
    with pytest.raises(StorageError, match=f"opa/{name} cannot be read"):
        await changes[name]()
    assert store.texts == before
    await place.documents.set_reference(OPERATOR, name, b"{}")  # a whole new one replaces it


async def test_the_number_of_sets_is_limited() -> None:
    most = {
        f"s{number}": ReferenceSet({"rtmr1": (A,)}, "a", NOW - timedelta(days=1))
        for number in range(MAX_SETS)
    }
    place = Place(referenceSets=referencesets.serialize({"tdx": most}))
    with pytest.raises(RequestError, match=f"{MAX_SETS} sets already"):
        await place.sets.add(OPERATOR, "tdx", "more", {"rtmr1": [B]}, "")
    del most["s0"]
    await place.store.put(SETS, referencesets.serialize({"tdx": most}), expected=ANY)
    await place.sets.add(OPERATOR, "tdx", "more", {"rtmr1": [B]}, "")
    more = {**most, "s0": most["s1"], "s": most["s1"]}
    with pytest.raises(RequestError, match=f"at most {MAX_SETS}"):
        await place.documents.set_reference(
            OPERATOR, "referenceSets", referencesets.serialize({"tdx": more}).encode()
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ('{"tdx": []}', "must be an object of at most"),
        ('{"tdx": {"a": {}}}', "values"),
        (stored_sets("a", values={"rtmr1": ["AA" * 48]}), "96 lower-case hex digits"),
        (stored_sets("a", values={"rtmr1": ["aa"]}), "96 lower-case hex digits"),
        (stored_sets("a", values={"reportData": [A]}), "not a measurement"),
        (stored_sets("a", values={}), "without values"),
        (stored_sets("a", tee="sgx", values={"mrSigner": [A]}), "base64 of 32 bytes"),
    ],
)
async def test_sets_set_as_a_document_have_the_form_of_their_tee(text: str, said: str) -> None:
    place = Place(referenceSets=stored_sets("old"))
    with pytest.raises(RequestError, match=said):
        await place.documents.set_reference(OPERATOR, "referenceSets", text.encode())
    assert place.store.texts["referenceSets"] == stored_sets("old")


async def test_sets_of_a_tee_without_policy_are_refused() -> None:
    place = Place()
    text = stored_sets("a", tee="csv", values={"x": ["y"]}).encode()
    with pytest.raises((NotFound, RequestError)):
        await place.documents.set_reference(OPERATOR, "referenceSets", text)


@pytest.mark.parametrize("name", ["tdxData", "releaseData", "mine"])
@pytest.mark.parametrize("text", ["{", "[]", '{"policy": {}}', '{"a": 1, "a": 2}'])
async def test_data_that_cannot_be_parsed_is_never_stored(name: str, text: str) -> None:
    """The data is parsed first, whatever the tester reports."""
    place = Place()
    with pytest.raises(PolicyInvalid):
        await place.documents.set_reference(OPERATOR, name, text.encode())
    assert place.store.texts == {"tdxPolicy.rego": "old", "tdxData": "{}"}


async def test_release_data_is_checked_with_the_release_policy_and_the_reverse() -> None:
    place = Place(**{"releasePolicy.rego": "release", "releaseData": '{"a": 1}'})
    await place.documents.set_reference(OPERATOR, "releaseData", b'{"a": 2}')
    await place.documents.set_policy(OPERATOR, "releasePolicy.rego", b"new")
    assert [(checked.policy, checked.data) for checked in place.tester.checked] == [
        ("release", '{"a": 2}'),
        ("new", '{"a": 2}'),
    ]


@pytest.mark.parametrize(
    ("name", "text", "tee"),
    [
        ("tdxPolicy.rego", "new", "tdx"),
        ("tdxData", '{"rtmr1": []}', "tdx"),
        ("referenceSets", stored_sets("new"), "tdx"),
        ("sgxPolicy.rego", "new", "sgx"),
        ("releasePolicy.rego", "new", None),
        ("releaseData", "{}", None),
        ("team.rego", "new", None),
    ],
)
@pytest.mark.parametrize("works", [True, False])
async def test_every_check_is_with_a_guest_of_the_documents_tee(
    name: str, text: str, tee: str | None, *, works: bool
) -> None:
    """Also the checks that find out which half is broken: each TEE has a sample of its own."""
    place = Place(referenceSets=stored_sets("old"))
    place.tester.refuses = lambda checked: not works
    set_document = place.documents.set_reference
    if name.endswith(".rego"):
        set_document = place.documents.set_policy
    if works:
        await set_document(OPERATOR, name, text.encode())
    else:
        with pytest.raises(PolicyInvalid):
            await set_document(OPERATOR, name, text.encode())
    assert len(place.tester.tees) >= (1 if works else 2)
    assert set(place.tester.tees) == {tee}


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        '{"tdx": []}',
        stored_sets("a", values={"rtmr1": ["aa"]}),
        stored_sets("a", values={"reportData": [A]}),
    ],
)
async def test_broken_sets_do_not_keep_good_data_and_good_policies_out(broken: str) -> None:
    """Every guest is refused until the sets are fixed; the other documents can be set first."""
    place = Place(referenceSets=broken)
    data = {"rtmr1": [B]}
    await place.documents.set_reference(OPERATOR, "tdxData", json.dumps(data).encode())
    await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    assert [dict(checked.reference.values) for checked in place.tester.checked] == [data] * 2
    assert place.store.texts["tdxPolicy.rego"] == "new"


async def test_sets_of_one_tee_are_not_values_of_another() -> None:
    place = Place(referenceSets=stored_sets("old", tee="sgx", values={"mrSigner": [A]}))
    await place.documents.set_reference(OPERATOR, "tdxData", b'{"rtmr1": []}')
    await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    assert [checked.data for checked in place.tester.checked] == ['{"rtmr1": []}'] * 2


async def test_a_policy_that_no_longer_reads_names_with_values_is_refused() -> None:
    """The stored data fits the policy before; under the new one its names would pin nothing."""
    place = Place(**{"tdxPolicy.rego": "data.rack", "tdxData": '{"rack": ["a"]}'})
    with pytest.raises(PolicyInvalid, match=r"^tdxData: no policy reads 'rack'"):
        await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    assert place.store.texts["tdxPolicy.rego"] == "data.rack"
    await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"data.rack # new")
    assert place.store.texts["tdxPolicy.rego"] == "data.rack # new"


async def test_the_first_policy_is_stored_next_to_data_that_no_policy_reads() -> None:
    place = Place(tdxData='{"rack": ["a"]}')
    del place.store.texts["tdxPolicy.rego"]
    await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    assert [(each.policy, each.data) for each in place.tester.checked] == [("new", "{}")]


async def test_a_policy_that_does_not_work_is_tried_without_data_and_the_data_without_it() -> None:
    place = Place(tdxData='{"rtmr1": []}')
    place.tester.refuses = lambda checked: checked.data != "{}"
    await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    assert [(each.policy, each.data) for each in place.tester.checked] == [
        ("new", '{"rtmr1": []}'),
        (FALLBACK_POLICY, '{"rtmr1": []}'),
        ("new", "{}"),
    ]


async def test_data_is_tried_by_itself_where_its_policy_does_not_work() -> None:
    place = Place()
    place.tester.refuses = lambda checked: checked.policy == "old"
    await place.documents.set_reference(OPERATOR, "tdxData", b'{"rtmr1": []}')
    assert [(each.policy, each.data) for each in place.tester.checked] == [
        ("old", '{"rtmr1": []}'),
        ("old", "{}"),
        (FALLBACK_POLICY, '{"rtmr1": []}'),
    ]


async def test_data_that_no_policy_of_the_broker_reads_is_checked_by_itself() -> None:
    place = Place(**{"releasePolicy.rego": "release"})
    await place.documents.set_reference(OPERATOR, "mine", b'{"a": 1}')
    assert [each.policy for each in place.tester.checked] == [FALLBACK_POLICY]
    assert await place.changes.check_data(Name(("mine",)), '{"a": 1}') == {}


async def test_each_stored_document_is_recorded_with_its_digest() -> None:
    place = Place()
    await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"new")
    await place.documents.set_reference(OPERATOR, "releaseData", b'{"a": 1}')
    await place.references.replace(OPERATOR, "tdx", {"rtmr1": A})
    texts = place.store.texts
    assert place.events.events == [
        PolicySet(
            caller="operator",
            name=name,
            sha256=hashlib.sha256(texts[name].encode()).hexdigest(),
        )
        for name in ("tdxPolicy.rego", "releaseData", "tdxData")
    ]
