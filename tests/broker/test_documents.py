"""Documents by name: read, listed, stored, deleted and tested."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.broker.support import OPERATOR, A, B, Place, stored_sets
from verdictd_py.broker.documents import MAX_CLAIMS_BYTES
from verdictd_py.domain.events import PolicyDeleted, PolicySet
from verdictd_py.errors import NotFound, PolicyInvalid, RequestError
from verdictd_py.ports import PolicyDecision, PolicyDocuments


async def test_a_document_is_read_by_its_name() -> None:
    place = Place(**{"team.rego": "of the team"})
    assert await place.documents.get(OPERATOR, "team.rego") == "of the team"
    with pytest.raises(NotFound):
        await place.documents.get(OPERATOR, "other.rego")


@pytest.mark.parametrize("name", ["a/b", "../tdxData", "", "a/b/c"])
async def test_a_name_that_no_document_has_is_refused(name: str) -> None:
    place = Place()
    documents = place.documents
    for use in (
        documents.get(OPERATOR, name),
        documents.describe(OPERATOR, name),
        documents.require_reader(OPERATOR, name, policy=True),
        documents.delete(OPERATOR, name),
        documents.set_policy(OPERATOR, name, b"new"),
        documents.set_reference(OPERATOR, name, b"{}"),
    ):
        with pytest.raises(RequestError):
            await use
    assert place.store.texts == {"tdxPolicy.rego": "old", "tdxData": "{}"}


async def test_documents_are_listed_with_what_reads_them() -> None:
    place = Place(stray="x")
    listed = await place.documents.list_documents(OPERATOR)
    assert [(str(use.name), document and document.text) for use, document in listed] == [
        ("stray", "x"),
        ("tdxData", "{}"),
        ("tdxPolicy.rego", "old"),
    ]
    use, document = await place.documents.describe(OPERATOR, "sgxData")
    assert (use.kind, document) == ("reference data", None)


async def test_a_name_without_a_reader_is_refused_for_data_and_not_for_a_policy() -> None:
    place = Place()
    await place.documents.require_reader(OPERATOR, "team.rego", policy=True)
    with pytest.raises(RequestError, match="nothing reads team"):
        await place.documents.require_reader(OPERATOR, "team.rego", policy=False)
    with pytest.raises(RequestError, match="did you mean tdxData"):
        await place.documents.require_reader(OPERATOR, "tdxdata", policy=False)


async def test_a_document_that_nothing_reads_is_deleted() -> None:
    place = Place(**{"team.rego": "of the team"})
    await place.documents.delete(OPERATOR, "team.rego")
    assert "team.rego" not in place.store.texts
    assert place.events.events == [PolicyDeleted(caller="operator", name="team.rego")]
    with pytest.raises(NotFound):
        await place.documents.delete(OPERATOR, "team.rego")


async def test_a_document_that_decides_is_not_deleted() -> None:
    place = Place(
        **{"a.rego": "of a", "releasePolicies": '{"keys/a/": "a.rego", "keys/b/": "a.rego"}'}
    )
    for name, readers in (
        ("tdxPolicy.rego", "appraisal of tdx"),
        ("a.rego", "release of 'keys/a/' and release of 'keys/b/'"),
    ):
        with pytest.raises(RequestError, match=f"{name} decides about {readers}; set another"):
            await place.documents.delete(OPERATOR, name)
        assert name in place.store.texts
    assert place.events.events == []


@pytest.mark.parametrize("name", ["referenceSets", "releaseData", "releasePolicies"])
async def test_names_of_data_have_no_policy(name: str) -> None:
    place = Place()
    with pytest.raises(RequestError, match=f"^{name} is the name of data; "):
        await place.documents.set_policy(OPERATOR, name, b"new")
    assert name not in place.store.texts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tdxData", "tdxData is the name of reference data"),
        ("sgxData", "sgxData is the name of reference data"),
        ("tdxPolicy.rego", "tdxPolicy.rego is the name of a policy"),
        ("team.rego", "team.rego is the name of a policy"),
    ],
)
async def test_one_half_is_not_stored_as_the_other(name: str, said: str) -> None:
    place = Place()
    set_document = place.documents.set_policy
    if name.endswith(".rego"):
        set_document = place.documents.set_reference
    with pytest.raises(RequestError, match=f"^{said}; "):
        await set_document(OPERATOR, name, b"{}")
    assert place.store.texts == {"tdxPolicy.rego": "old", "tdxData": "{}"}


async def test_bytes_that_are_not_text_are_refused() -> None:
    place = Place()
    with pytest.raises(RequestError, match=r"^the policy is not UTF-8 text"):
        await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", b"\xff")
    with pytest.raises(RequestError, match=r"^the reference data is not UTF-8 text"):
        await place.documents.set_reference(OPERATOR, "tdxData", b"\xff")


async def test_a_stored_document_is_recorded_and_compiled_for_the_next_guest() -> None:
    place = Place()
    await place.documents.set_policy(OPERATOR, "tdxPolicy.rego", "n\u00e4chste".encode())
    await place.documents.set_reference(OPERATOR, "tdxData", b'{"rtmr1": []}')
    assert place.store.texts == {"tdxPolicy.rego": "n\u00e4chste", "tdxData": '{"rtmr1": []}'}
    assert [(event.caller, event.name) for event in place.events.of(PolicySet)] == [
        ("operator", "tdxPolicy.rego"),
        ("operator", "tdxData"),
    ]
    assert place.prepared == 2


async def test_release_policies_name_only_policies_that_are_stored() -> None:
    place = Place(**{"a.rego": "of a"})
    with pytest.raises(RequestError, match=r"^there is no policy b\.rego for 'keys/b/'; store it"):
        await place.documents.set_reference(
            OPERATOR, "releasePolicies", b'{"keys/a/": "a.rego", "keys/b/": "b.rego"}'
        )
    place.tester.refuses = lambda checked: checked.data != "{}"
    with pytest.raises(PolicyInvalid):
        await place.documents.set_reference(OPERATOR, "releasePolicies", b'{"keys/a/": "a.rego"}')
    assert "releasePolicies" not in place.store.texts
    place.tester.refuses = lambda checked: False
    await place.documents.set_reference(OPERATOR, "releasePolicies", b'{"keys/a/": "a.rego"}')
    assert place.store.texts["releasePolicies"] == '{"keys/a/": "a.rego"}'


async def run_test(place: Place, claims: bytes = b"{}", **more: Any) -> PolicyDocuments:
    """Return what a test of these documents evaluated."""
    given: dict[str, Any] = {
        "policy_name": "tdxPolicy.rego",
        "policy": None,
        "reference_name": "tdxData",
        "reference": None,
        **more,
    }
    decision = await place.documents.test(OPERATOR, claims=claims, **given)
    documents, evaluated = place.tester.tested[-1]
    assert decision == PolicyDecision(documents.policy == "yes", {})
    assert evaluated == json.loads(claims)
    return documents


async def test_stored_documents_are_tested_as_they_decide() -> None:
    place = Place(tdxData=json.dumps({"rtmr1": [B]}), referenceSets=stored_sets("new"))
    documents = await run_test(place, b'{"rtmr1": "x"}')
    assert (documents.policy, documents.reference.values) == ("old", {"rtmr1": [B, A]})
    assert place.events.events == []


async def test_given_texts_are_tested_instead_of_stored_ones() -> None:
    documents = await run_test(Place(), policy=b"yes", reference=b'{"a": 1}')
    assert (documents.policy, documents.data) == ("yes", '{"a": 1}')


async def test_other_documents_are_tested_as_they_are_stored() -> None:
    place = Place(
        **{"releasePolicy.rego": "release", "releaseData": '{"a": 1}', "sgxData": '{"svn": 2}'}
    )
    documents = await run_test(
        place, policy_name="releasePolicy.rego", reference_name="releaseData"
    )
    assert (documents.policy, documents.data) == ("release", '{"a": 1}')
    documents = await run_test(place, reference_name="sgxData")  # its policy is not stored
    assert documents.data == '{"svn": 2}'
    with pytest.raises(PolicyInvalid, match="not usable JSON"):
        await run_test(place, reference_name="tdxPolicy.rego")


async def test_a_test_of_what_is_not_stored_or_of_no_claims_is_refused() -> None:
    wrong: tuple[tuple[dict[str, Any], type[Exception]], ...] = (
        ({"policy_name": "other.rego"}, NotFound),
        ({"reference_name": "other"}, NotFound),
        ({"policy_name": "a/b"}, RequestError),
        ({"reference_name": "a/b"}, RequestError),
        ({"policy": b"\xff"}, RequestError),
        ({"reference": b"\xff"}, RequestError),
    )
    for more, error in wrong:
        with pytest.raises(error):
            await run_test(Place(), **more)
    for claims in (b"[]", b"{", b"", b"\xff"):
        with pytest.raises(RequestError, match="the input"):
            await run_test(Place(), claims)


async def test_the_input_of_a_test_has_a_largest_size() -> None:
    most = b'{"a": "' + b"x" * (MAX_CLAIMS_BYTES - 9) + b'"}'
    assert len(most) == MAX_CLAIMS_BYTES
    await run_test(Place(), most)
    with pytest.raises(RequestError, match=f"^the input is larger than {MAX_CLAIMS_BYTES} bytes$"):
        await run_test(Place(), most + b" ")
