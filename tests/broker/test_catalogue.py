"""Uses of documents, and suggestions for misspelled names."""

from __future__ import annotations

import pytest

from tests.support.tees import TEES
from verdictd_py.broker.catalogue import DATA, POLICY, Catalogue
from verdictd_py.domain.names import Name
from verdictd_py.errors import RequestError
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
