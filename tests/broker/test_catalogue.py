"""Uses of documents, and suggestions for misspelled names."""

from __future__ import annotations

import pytest

from tests.support.tees import TEES
from verdictd_py.broker.catalogue import DATA, POLICY, Catalogue
from verdictd_py.domain.names import Name
from verdictd_py.errors import RequestError, StorageError
from verdictd_py.ports import Document
from verdictd_py.storage.memory import MemoryDocumentStore


def catalogue(**texts: str) -> Catalogue:
    return Catalogue(MemoryDocumentStore(TEES, texts), TEES, ("tdx",))


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("tdxpolicy.rego", "tdxPolicy.rego"),
        ("tdx-policy.rego", "tdxPolicy.rego"),
        ("tdxPolicy", "tdxPolicy.rego"),
        ("TDXDATA", "tdxData"),
        ("reference_sets", "referenceSets"),
        ("releasepolicies", "releasePolicies"),
    ],
)
async def test_a_misspelled_name_is_refused(wrong: str, meant: str) -> None:
    for kind in (POLICY, DATA):
        with pytest.raises(RequestError, match=rf"^nothing reads {wrong}; did you mean {meant}\?$"):
            await catalogue().require_reader(Name.parse(wrong), kind=kind)
    use = await catalogue().use(Name.parse(wrong))
    assert (use.suggestion, use.misspelled, use.decides, use.kind) == (meant, True, False, "")


@pytest.mark.parametrize("name", ["team.rego", "teamPolicy.rego", "snpPolicy.rego", "a"])
async def test_a_policy_of_another_name_may_be_stored(name: str) -> None:
    await catalogue().require_reader(Name.parse(name), kind=POLICY)
    use = await catalogue().use(Name.parse(name))
    assert (use.suggestion, use.remark) == (
        "",
        f"nothing reads {name}: it takes effect once releasePolicies names it for a prefix",
    )
    with pytest.raises(RequestError, match="the broker reads tdxData, sgxData, "):
        await catalogue().require_reader(Name.parse(name), kind=DATA)


async def test_a_similar_name_is_suggested_and_stored() -> None:
    name = Name.parse("releasePolicy2.rego")
    await catalogue().require_reader(name, kind=POLICY)
    assert (await catalogue().use(name)).remark.endswith("; or did you mean releasePolicy.rego?")


async def test_a_policy_that_release_policies_name_is_read() -> None:
    named = catalogue(releasePolicies='{"keys/a/": "a.rego", "keys/b/": "a.rego"}')
    use = await named.use(Name.parse("a.rego"))
    assert (use.readers, use.decides) == (("release of 'keys/a/'", "release of 'keys/b/'"), True)
    misspelled = await named.use(Name.parse("A.rego"))
    assert misspelled.suggestion == "a.rego"
    broken = catalogue(releasePolicies="{")
    assert (await broken.use(Name.parse("a.rego"))).readers == ()


async def test_documents_of_a_tee_have_effect_only_if_it_is_served() -> None:
    for name, kind, decides in (
        ("tdxPolicy.rego", POLICY, True),
        ("tdxData", DATA, True),
        ("sgxPolicy.rego", POLICY, False),
        ("sampleData", DATA, False),
        ("releasePolicy.rego", POLICY, True),
        ("releaseData", DATA, True),
        ("referenceSets", "named sets", True),
    ):
        use = await catalogue().use(Name.parse(name))
        assert (use.kind, use.decides, bool(use.readers)) == (kind, decides, True)
        assert bool(use.remark) is not decides


async def test_every_stored_document_is_listed() -> None:
    found = await catalogue(tdxData="{}", stray="x").all()
    assert [(str(use.name), document and document.text) for use, document in found] == [
        ("stray", "x"),
        ("tdxData", "{}"),
    ]


@pytest.mark.parametrize(
    ("name", "readers", "remark"),
    [
        ("tdxPolicy.rego", ("appraisal of tdx",), ""),
        (
            "sgxData",
            ("appraisal of sgx (which is not served)",),
            "sgxData has no effect now: it is for appraisal of sgx (which is not served)",
        ),
        ("releasePolicy.rego", ("every release that releasePolicies leaves to it",), ""),
        ("releaseData", ("every release",), ""),
        ("releasePolicies", ("every release",), ""),
        ("referenceSets", ("every appraisal",), ""),
        ("TDXDATA", (), "nothing reads TDXDATA; did you mean tdxData?"),
        (
            "releasePolicy2.rego",
            (),
            (
                "nothing reads releasePolicy2.rego: it takes effect once releasePolicies names it "
                "for a prefix; or did you mean releasePolicy.rego?"
            ),
        ),
    ],
)
async def test_readers_and_the_remark_say_what_a_document_decides(
    name: str, readers: tuple[str, ...], remark: str
) -> None:
    use = await catalogue().use(Name.parse(name))
    assert (str(use.name), use.readers, use.remark) == (name, readers, remark)
    assert use.kind or not readers
    assert readers or use.kind == ""


async def test_a_policy_of_a_tee_that_is_not_served_decides_where_it_is_named() -> None:
    named = catalogue(releasePolicies='{"keys/a/": "sgxPolicy.rego", "keys/b/": "tdxData"}')
    use = await named.use(Name.parse("sgxPolicy.rego"))
    assert use.readers == ("appraisal of sgx (which is not served)", "release of 'keys/a/'")
    assert (use.kind, use.decides, use.remark) == (POLICY, True, "")
    use = await named.use(Name.parse("sampleData"))
    assert (use.kind, use.decides) == (DATA, False)


async def test_a_policy_that_release_policies_name_is_a_policy() -> None:
    use = await catalogue(releasePolicies='{"keys/a/": "team"}').use(Name.parse("team"))
    assert (use.kind, use.suggestion, use.misspelled, use.remark) == (POLICY, "", False, "")


async def test_names_of_data_that_the_broker_reads_are_listed_in_the_refusal() -> None:
    with pytest.raises(RequestError) as refused:
        await catalogue().require_reader(Name.parse("rack"), kind=DATA)
    assert str(refused.value) == (
        "nothing reads rack; the broker reads tdxData, sgxData, sampleData, "
        "releaseData, releasePolicies, referenceSets"
    )
    for name in ("tdxData", "releaseData", "releasePolicies", "sgxPolicy.rego"):
        for kind in (POLICY, DATA):
            await catalogue().require_reader(Name.parse(name), kind=kind)


async def test_data_with_a_similar_name_is_refused_and_a_policy_is_not() -> None:
    name = Name.parse("releasePolicy2.rego")
    with pytest.raises(RequestError, match=r"did you mean releasePolicy\.rego\?$"):
        await catalogue().require_reader(name, kind=DATA)


async def test_a_document_is_returned_with_its_use_if_it_can_be_read() -> None:
    class Unreadable(MemoryDocumentStore):
        async def get(self, name: Name) -> Document:
            if str(name) == "tdxData":
                raise StorageError("unreadable")
            return await super().get(name)

    stored = Catalogue(Unreadable(TEES, {"tdxData": "{}", "stray": "x"}), TEES, ("tdx",))
    use, document = await stored.one(Name.parse("stray"))
    assert (str(use.name), document) == ("stray", Document.of("x"))
    use, document = await stored.one(Name.parse("sgxData"))
    assert (str(use.name), document) == ("sgxData", None)
    assert [(str(use.name), use.decides, document) for use, document in await stored.all()] == [
        ("stray", False, Document.of("x")),
        ("tdxData", True, None),
    ]
