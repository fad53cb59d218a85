"""The release policy: the longest prefix decides, and only an explicit `true` allows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.policy.support import POLICIES
from tests.support.memory import NOW, VERIFIED, accepted_peer
from tests.support.tees import TEES
from verdictd_py.domain.appraisal import Appraisal, AppraisedPeer
from verdictd_py.domain.names import Name
from verdictd_py.domain.trust import TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyUnavailable
from verdictd_py.policy import release as release_module
from verdictd_py.policy import trustee
from verdictd_py.policy.release import RegoReleasePolicy, _resource_input
from verdictd_py.ports import Document, Kind, PolicyDocuments
from verdictd_py.ports.known_tees import Tees
from verdictd_py.storage.memory import MemoryDocumentStore

PEER = accepted_peer()
HEAD = "package policy\nimport rego.v1\ndefault allow := false\n"
UNDEFINED = "package policy\nimport rego.v1\nallow if input.claims.mrTd == 0\n"
"""`allow` is neither true nor false for any guest."""
FAILS = 'allow if { input.claims.mrTd == "ab"; count(1) == 1 }\n'
"""A rule that fails for `PEER` only."""
DEFAULT = (POLICIES / "releasePolicy.rego").read_text()


async def reasons(texts: dict[str, str], path: str = "keys/one", kind: Kind = Kind.KEY) -> str:
    release = RegoReleasePolicy(MemoryDocumentStore(TEES, texts), TEES)
    found = await release.failures(PEER, kind, path)
    return "; ".join(reason.text for reason in found)


async def test_the_packaged_policy_releases_every_secret_to_every_accepted_guest() -> None:
    texts = {"releasePolicy.rego": DEFAULT, "releaseData": (POLICIES / "releaseData").read_text()}
    for path, kind in (
        ("keys/one", Kind.KEY),
        ("default/security-policy/test", Kind.IMAGE),
        ("a/b/c", Kind.RESOURCE),
    ):
        assert await reasons(texts, path, kind) == ""


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"releasePolicy.rego": HEAD}, "does not allow keys/one to this guest"),
        ({"releasePolicy.rego": UNDEFINED}, "does not allow keys/one to this guest"),
        ({"releasePolicy.rego": UNDEFINED + 'reasons contains "never"\n'}, "never"),
        ({"releasePolicy.rego": HEAD + "allow := 1 if true\n"}, "does not allow"),
        ({"releasePolicy.rego": 'package policy\nallow := "true"\n'}, "does not allow"),
        ({"releasePolicy.rego": HEAD + 'reasons contains "never"\n'}, "never"),
        ({"releasePolicy.rego": HEAD + FAILS}, "count"),
    ],
)
async def test_a_policy_that_does_not_allow_refuses(texts: dict[str, str], said: str) -> None:
    assert said in await reasons(texts)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({}, "opa/releasePolicy.rego is missing"),
        ({"releasePolicy.rego": "garbage"}, "cannot be used"),
        ({"releasePolicy.rego": DEFAULT, "releaseData": "{"}, "not usable JSON"),
        (
            {"releasePolicy.rego": DEFAULT, "releaseData": '{"policy": {}}'},
            "replace the policy's decision",
        ),
        ({"releasePolicy.rego": DEFAULT, "releasePolicies": "{"}, "not valid JSON"),
        ({"releasePolicy.rego": DEFAULT, "releasePolicies": '{"keys/": 1}'}, "not the name"),
        ({"releasePolicy.rego": DEFAULT, "releasePolicies": '{"keys/": "../x"}'}, "cannot be used"),
        ({"releasePolicy.rego": DEFAULT, "releasePolicies": '{"keys/": "none"}'}, "is missing"),
        ({"releasePolicy.rego": HEAD + "allow if opa.runtime().env.X\n"}, "opa.runtime"),
        ({"releasePolicy.rego": HEAD + "allow if count(1) == 1\n"}, "count"),
    ],
)
async def test_a_policy_that_is_broken_is_no_verdict(texts: dict[str, str], said: str) -> None:
    with pytest.raises(PolicyUnavailable, match="the release policy for keys/one") as caught:
        await reasons(texts)
    assert said in str(caught.value)


async def test_claims_and_data_decide() -> None:
    policy = HEAD + "allow if input.claims.mrTd in data.teams[input.resource.path]\n"
    for value, allowed in (("ab", True), ("cd", False)):
        data = json.dumps({"teams": {"keys/one": [value]}})
        found = await reasons({"releasePolicy.rego": policy, "releaseData": data})
        assert (found == "") is allowed
    assert await reasons({"releasePolicy.rego": policy, "releaseData": data}, "keys/two")


async def test_the_input_has_the_parts_of_a_name() -> None:
    policy = HEAD + 'allow if input.resource.labels.type == "key"\n'
    texts = {"releasePolicy.rego": policy}
    assert await reasons(texts, "keys/default/key/1") == ""
    assert await reasons(texts, "default/key/1", Kind.RESOURCE) == ""
    assert await reasons(texts, "keys/one")
    assert await reasons(texts, "default/secret/1", Kind.RESOURCE)


@pytest.mark.parametrize(
    ("path", "kind", "labels"),
    [
        ("keys/one", Kind.KEY, {}),
        ("keys/a/b/c", Kind.KEY, {"repository": "a", "type": "b", "tag": "c"}),
        ("a/b/c", Kind.RESOURCE, {"repository": "a", "type": "b", "tag": "c"}),
        ("a/b", Kind.IMAGE, {}),
    ],
)
async def test_the_input_has_all_members(
    path: str, kind: Kind, labels: dict[str, JsonValue]
) -> None:
    part = {
        "ear.status": "contraindicated",  # this peer was not rated
        "ear.trustworthiness-vector": {"hardware": 97},
        "ear.appraisal-policy-id": "tdxPolicy.rego",
        "ear.veraison.annotated-evidence": {PEER.tee: dict(PEER.claims)},
    }
    asked = {
        "claims": dict(PEER.claims),
        "appraisal": {"id": PEER.appraisal_id, "tee": PEER.tee},
        "resource": {"kind": kind.value, "path": path, "labels": labels, "query": {}},
        "submods": {"cpu0": part},
    }
    texts = {
        "releasePolicy.rego": HEAD + "allow if input == data.asked\n",
        "releaseData": json.dumps({"asked": asked}),
    }
    assert await reasons(texts, path, kind) == ""


async def test_changed_data_decides_about_the_next_secret() -> None:
    store = MemoryDocumentStore(
        TEES, {"releasePolicy.rego": HEAD + "allow if data.open\n", "releaseData": '{"open": true}'}
    )
    policy = RegoReleasePolicy(store, TEES)
    assert not await policy.failures(PEER, Kind.KEY, "keys/one")
    store.texts["releaseData"] = '{"open": false}'
    assert await policy.failures(PEER, Kind.KEY, "keys/one")
    store.texts["releaseData"] = "{"
    with pytest.raises(PolicyUnavailable, match="cannot be used"):
        await policy.failures(PEER, Kind.KEY, "keys/one")
    del store.texts["releaseData"]
    assert await policy.failures(PEER, Kind.KEY, "keys/one")


async def test_policy_and_data_are_read_in_one_snapshot() -> None:
    """A policy never decides with the data of another state: each of the two states refuses."""

    class Changing(MemoryDocumentStore):
        """A store whose documents are all replaced after each snapshot."""

        async def snapshot(self, names: Sequence[Name]) -> Mapping[Name, Document]:
            found = await super().snapshot(names)
            self.texts = {"releasePolicy.rego": allows, "releaseData": "{}"}
            return found

    allows = HEAD + "allow if data.open\n"
    store = Changing(TEES, {"releasePolicy.rego": HEAD, "releaseData": '{"open": true}'})
    assert await RegoReleasePolicy(store, TEES).failures(PEER, Kind.KEY, "keys/one")


async def test_a_refusal_names_the_rule_release() -> None:
    store = MemoryDocumentStore(TEES, {"releasePolicy.rego": HEAD})
    (reason,) = await RegoReleasePolicy(store, TEES).failures(PEER, Kind.KEY, "keys/one")
    assert reason.as_json() == {
        "rule": "release",
        "measured": "",
        "expected": "",
        "text": "the release policy does not allow keys/one to this guest",
    }


async def test_the_longest_prefix_decides() -> None:
    texts = {
        "releasePolicy.rego": HEAD + 'reasons contains "default"\n',
        "a.rego": HEAD + 'reasons contains "team a"\n',
        "b.rego": HEAD + 'reasons contains "secret of team a"\n',
        "releasePolicies": json.dumps({"keys/team-a/": "a.rego", "keys/team-a/s/": "b.rego"}),
    }
    assert await reasons(texts, "keys/team-a/k/1") == "team a"
    assert await reasons(texts, "keys/team-a/s/1") == "secret of team a"
    assert await reasons(texts, "keys/team-ab/k/1") == "default"
    assert await reasons(texts, "team-a/s/1", Kind.RESOURCE) == "default"


async def test_a_broken_policy_is_reported_before_the_first_guest() -> None:
    broken = {"releasePolicy.rego": DEFAULT, "releasePolicies": '{"a": "x.rego"}', "x.rego": "?"}
    (problem,) = await RegoReleasePolicy(MemoryDocumentStore(TEES, broken), TEES).prepare()
    assert problem.startswith("x.rego: ")
    assert (
        await RegoReleasePolicy(
            MemoryDocumentStore(TEES, {"releasePolicy.rego": DEFAULT}), TEES
        ).prepare()
        == ()
    )
    (problem,) = await RegoReleasePolicy(
        MemoryDocumentStore(TEES, {"releasePolicies": "{"}), TEES
    ).prepare()
    assert "not valid JSON" in problem


async def test_the_input_about_the_guest_is_built_once_for_each_appraisal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The keys of one request, and all requests with one token, share the input."""
    built: list[str] = []
    submods = trustee.submods

    def counted(
        tees: Tees, tee: str, claims: Mapping[str, JsonValue], trust: TrustVector
    ) -> dict[str, JsonValue]:
        built.append(tee)
        return submods(tees, tee, claims, trust)

    monkeypatch.setattr(trustee, "submods", counted)
    rule = 'allow if {\n  input.claims.mrTd == "ab"\n  input.resource.path != "keys/9"\n}\n'
    store = MemoryDocumentStore(TEES, {"releasePolicy.rego": HEAD + rule})
    policy = RegoReleasePolicy(store, TEES)
    for number in range(64):
        refused = await policy.failures(accepted_peer(), Kind.KEY, f"keys/{number}")
        assert bool(refused) is (number == 9)
    assert built == ["tdx"]
    evidence = replace(VERIFIED, claims={"mrTd": "cd"})
    same_id = Appraisal("0123", NOW, "tdx", "test", evidence, bound=True, refusal=None)
    peer = AppraisedPeer.of(same_id, address="192.0.2.1:5")
    assert await policy.failures(peer, Kind.KEY, "keys/0")  # never the view of other claims
    assert built == ["tdx", "tdx"]


async def test_each_changed_document_decides_about_the_next_secret() -> None:
    allows, denies = HEAD + "allow if data.open\n", HEAD
    store = MemoryDocumentStore(
        TEES, {"releasePolicy.rego": allows, "releaseData": '{"open": true}'}
    )
    release = RegoReleasePolicy(store, TEES)

    async def is_allowed() -> bool:
        first, second = [not await release.failures(PEER, Kind.KEY, "keys/a") for _ in range(2)]
        assert first is second
        return first

    assert await is_allowed()
    store.texts["releaseData"] = '{"open": false}'
    assert not await is_allowed()
    del store.texts["releaseData"]
    assert not await is_allowed()
    store.texts["releaseData"] = '{"open": true}'
    assert await is_allowed()
    store.texts["releasePolicy.rego"] = denies
    assert not await is_allowed()
    store.texts |= {"team.rego": allows, "releasePolicies": '{"keys/": "team.rego"}'}
    assert await is_allowed()
    store.texts["releasePolicies"] = '{"keys/b": "team.rego"}'
    assert not await is_allowed()
    del store.texts["releasePolicies"]
    store.texts["releasePolicy.rego"] = allows
    assert await is_allowed()


@pytest.mark.parametrize(
    ("rules", "reads"),
    [
        ("allow if input.x", False),
        ("# data.plugin\n\t# data\nallow if input.x", False),
        ("allow if data.plugin", True),
        ("import data.plugin as p\nallow if p", True),
        ("allow if input.x # data", True),
        ("x := `\n# ` ; y := data.plugin\nallow if y", True),
        ("# a comment\rallow if data.plugin", True),
        ("allow if input.x\r\n# data\r\n", False),
    ],
)
async def test_the_data_of_a_request_is_passed_unless_only_comments_name_it(
    rules: str, reads: bool
) -> None:
    store = MemoryDocumentStore(TEES, {"releasePolicy.rego": HEAD + rules})
    release = RegoReleasePolicy(store, TEES)
    assert (await release._documents_of(Name.parse("releasePolicy.rego"))).reads_data is reads


async def test_guests_that_come_at_once_combine_policy_and_data_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    combine = PolicyDocuments.combine

    def counted(*arguments: Any) -> PolicyDocuments:
        made.append(arguments[2])
        return combine(*arguments)

    monkeypatch.setattr(PolicyDocuments, "combine", counted)
    data = json.dumps({"x": "x" * 100_000})
    store = MemoryDocumentStore(TEES, {"releasePolicy.rego": DEFAULT, "releaseData": data})
    release = RegoReleasePolicy(store, TEES)
    decisions = [release.failures(PEER, Kind.KEY, f"keys/{number}") for number in range(5)]
    assert await asyncio.gather(*decisions) == [()] * 5
    assert made == ["releasePolicy.rego"]


async def test_combined_policies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_module, "MAX_COMBINED", 3)
    names = [f"team{number}.rego" for number in range(6)]
    prefixes = {f"keys/{name}": name for name in names}
    texts = {"releasePolicies": json.dumps(prefixes), **dict.fromkeys(names, DEFAULT)}
    release = RegoReleasePolicy(MemoryDocumentStore(TEES, texts), TEES)
    for name in (*names, *names):
        assert not await release.failures(PEER, Kind.KEY, f"keys/{name}")
        assert len(release._combined) <= 3


def test_the_input_of_the_default_policy_is_prepared_once_for_each_secret() -> None:
    inputs = [
        _resource_input(Kind.KEY, "keys/a", ()),
        _resource_input(Kind.RESOURCE, "keys/a", ()),
        _resource_input(Kind.KEY, "keys/b", ()),
        _resource_input(Kind.KEY, "keys/a", (("a", "b"),)),
    ]
    assert len({each.text for each in inputs}) == len(inputs)
    assert json.loads(inputs[3].text)["resource"]["query"] == {"a": "b"}
    assert _resource_input(Kind.KEY, "keys/a", ()) is inputs[0]
