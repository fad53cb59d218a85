"""Names that policies of trustee read: their values, and that they release nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.policy.support import ONE, Documents, default_documents, tdx_claims
from tests.policy.trustee_policies import EVIDENCE, HEAD, OPEN, PROVED, TRUSTED
from tests.support.memory import NOW, VERIFIED, accepted_peer
from tests.support.tees import TEES
from verdictd_py.domain.appraisal import Appraisal, AppraisedPeer
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.domain.trust import UNTRUSTED, TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid, PolicyUnavailable, StorageError
from verdictd_py.policy import trustee
from verdictd_py.policy.appraisal import GuestTrust
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.coverage import PolicyCoverage
from verdictd_py.policy.engine import CompiledPolicy
from verdictd_py.policy.floor import NO_REQUIREMENTS
from verdictd_py.policy.release import RegoReleasePolicy
from verdictd_py.policy.report import report
from verdictd_py.policy.trial import PolicyTrial
from verdictd_py.ports import Kind, PolicyDocuments, Tees
from verdictd_py.ports.tees import InitDataBinding
from verdictd_py.storage.memory import MemoryDocumentStore

AFFIRMED: TrustVector = {"hardware": 2, "executables": 2, "configuration": 3}
WARNED: TrustVector = {**AFFIRMED, "executables": 33}


def peer(trust: TrustVector = AFFIRMED, tee: str = "tdx", **claims: JsonValue) -> AppraisedPeer:
    found = replace(VERIFIED, tee=tee, claims={**VERIFIED.claims, **claims})
    appraisal = Appraisal("0123", NOW, tee, "test", found, bound=True, refusal=None, trust=trust)
    return AppraisedPeer.of(appraisal, address="192.0.2.1:5")


def unattested() -> AppraisedPeer:
    appraisal = Appraisal("0123", NOW, "none", "none", None, bound=True, refusal=None)
    return AppraisedPeer.of(appraisal, address="192.0.2.1:5")


async def allows(
    policy: str,
    guest: AppraisedPeer,
    path: str = "default/key/1",
    *,
    kind: Kind = Kind.RESOURCE,
    query: dict[str, str] | None = None,
    data: str = "{}",
) -> bool:
    texts = {"releasePolicy.rego": policy, "releaseData": data}
    release = RegoReleasePolicy(MemoryDocumentStore(TEES, texts), TEES)
    return not await release.failures(guest, kind, path, query or {})


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (HEAD, (False, False, False, False)),
        (OPEN, (True, True, True, True)),
        (PROVED, (True, True, False, False)),
        (TRUSTED, (True, False, False, False)),
    ],
    ids=["nothing", "every request", "guests that prove something", "affirming guests"],
)
async def test_a_policy_for_trustee_releases_to_the_expected_guests(
    policy: str, expected: tuple[bool, ...]
) -> None:
    guests = (peer(), peer(WARNED), peer(UNTRUSTED, "sample"), unattested())
    assert tuple([await allows(policy, guest) for guest in guests]) == expected


@pytest.mark.parametrize(
    ("kind", "path", "segments"),
    [
        (Kind.RESOURCE, "default/key/1", ["default", "key", "1"]),
        (Kind.KEY, "keys/default/key/1", ["default", "key", "1"]),
        (Kind.KEY, "keys/84688df7-2c0c", ["84688df7-2c0c"]),
        (Kind.IMAGE, "default/security-policy/test", ["default", "security-policy", "test"]),
    ],
)
async def test_the_path_is_an_array_as_a_guest_requests_it(
    kind: Kind, path: str, segments: list[str]
) -> None:
    policy = HEAD + f'allow if data["resource-path"] == {json.dumps(segments)}\n'
    assert await allows(policy, peer(), path, kind=kind)
    assert not await allows(policy, peer(), "another/key/1")


async def test_the_query_is_that_of_the_current_request() -> None:
    policy = HEAD + 'allow if data.query["version"] == "1"\n'
    none = HEAD + "allow if data.query == {}\n"
    release = RegoReleasePolicy(
        MemoryDocumentStore(TEES, {"releasePolicy.rego": policy, "releaseData": "{}"}), TEES
    )
    for query, allowed in (({"version": "1"}, True), ({}, False), ({"version": "2"}, False)):
        found = await release.failures(peer(), Kind.RESOURCE, "a/b/c", query)
        assert (found == ()) is allowed
    assert await allows(none, peer())
    odd = {'"\\u0041\n': '"}', "x": "\u2028" * 5000}
    assert await allows(HEAD + 'allow if count(data.query["x"]) == 5000\n', peer(), query=odd)


async def test_release_data_cannot_replace_what_is_requested() -> None:
    data = json.dumps({"plugin": "resource", "resource-path": ["a"], "teams": ["x"]})
    policy = HEAD + 'allow if {\n\tdata["resource-path"] == ["a"]\n\tdata.teams[0] == "x"\n}\n'
    assert not await allows(policy, peer(), data=data)
    assert await allows(policy, peer(), "keys/a", kind=Kind.KEY, data=data)


async def test_the_data_of_a_decision_is_not_retained_for_the_next() -> None:
    compiled = CompiledPolicy.compile(HEAD + 'allow if data.plugin == "resource"\n', "{}")
    assert compiled.evaluate({}, {"plugin": "resource"}).allow
    assert not compiled.evaluate({}).allow
    assert not compiled.evaluate({}, {"query": {}}).allow


async def test_the_submodule_is_that_of_the_token_with_every_claim() -> None:
    policy = HEAD + (
        "part := input.submods.cpu0\n"
        'allow if {\n\tpart["ear.status"] == "warning"\n'
        '\tpart["ear.trustworthiness-vector"].executables == 33\n'
        '\tpart["ear.trustworthiness-vector"].hardware == 2\n'
        '\tpart["ear.appraisal-policy-id"] == "tdxPolicy.rego"\n'
        '\tpart["ear.veraison.annotated-evidence"].tdx.eventLog.events[0] == "first"\n}\n'
    )
    assert await allows(policy, peer(WARNED, eventLog={"events": ["first"]}))


@pytest.mark.parametrize(
    ("guest", "expected"),
    [
        (peer(initData={"data": {"a.toml": "x"}}), True),
        (peer(initData=None), False),
        (peer(), False),
        (peer(UNTRUSTED, "sample", initData={"data": {"a.toml": "x"}}), False),
    ],
    ids=["proved", "refuted or none", "no claim", "nothing is proved"],
)
async def test_init_data_has_its_name_only_if_the_evidence_proves_it(
    guest: AppraisedPeer, expected: bool
) -> None:
    policy = HEAD + f'allow if {EVIDENCE}.init_data_claims.data["a.toml"] == "x"\n'
    assert await allows(policy, guest) is expected


def test_a_tee_that_does_not_measure_init_data_proves_none() -> None:
    for binding in (InitDataBinding(claim=None), None):
        tees = Tees((replace(TEES.named("tdx"), init_data=binding),))
        found = trustee.submods(tees, "tdx", {"initData": {"data": {}}}, AFFIRMED)["cpu0"]
        assert isinstance(found, dict)
        assert found["ear.veraison.annotated-evidence"] == {"tdx": {"initData": {"data": {}}}}


async def test_the_older_name_of_the_submodule_refuses_a_guest_that_proves_nothing() -> None:
    older = HEAD + f'allow if not {EVIDENCE.replace("cpu0", "cpu")}["sample"]\n'
    assert await allows(older, peer())
    assert not await allows(older, peer(UNTRUSTED, "sample"))
    assert not await allows(older, unattested())


async def test_a_peer_without_trust_is_not_affirming() -> None:
    assert accepted_peer().trust == UNTRUSTED
    assert not await allows(TRUSTED, accepted_peer())


GUEST = VerifiedEvidence(
    tee="tdx",
    report_data=bytes(64),
    claims=tdx_claims(),
    tcb_status="UpToDate",
    advisory_ids=(),
    digest="00" * 32,
)
PINNED: dict[str, JsonValue] = {name: [ONE] for name in TEES.measurements("tdx")}


async def trust(found: VerifiedEvidence, documents: PolicyDocuments | Exception) -> TrustVector:
    return await GuestTrust(Documents(documents), TEES)(found)


def pinned(**lists: JsonValue) -> PolicyDocuments:
    return default_documents("tdx", json.dumps({**PINNED, **lists}))


async def test_a_guest_is_affirming_only_if_each_measurement_equals_a_reference_value() -> None:
    assert await trust(GUEST, pinned(rtmr1=["22", ONE])) == AFFIRMED
    others: tuple[JsonValue, ...] = ([], ["2" * 96], ONE, None)
    for value in others:
        assert await trust(GUEST, pinned(rtmr1=value)) == WARNED
    absent = replace(GUEST, claims={k: v for k, v in GUEST.claims.items() if k != "rtmr1"})
    assert await trust(absent, pinned()) == WARNED


async def test_changed_reference_values_change_the_trust_of_the_next_guest() -> None:
    source = Documents(pinned())
    rated = GuestTrust(source, TEES)
    for _ in range(2):
        assert await rated(GUEST) == AFFIRMED
    source.now = pinned(rtmr1=["2" * 96])
    assert await rated(GUEST) == WARNED
    source.now = pinned()
    assert await rated(GUEST) == AFFIRMED


@pytest.mark.parametrize("value", [["a"], {"a": 1}])
async def test_a_claim_that_is_a_list_or_an_object_is_compared(value: JsonValue) -> None:
    guest = replace(GUEST, claims={**GUEST.claims, "rtmr1": value})
    assert await trust(guest, pinned()) == WARNED
    assert await trust(guest, pinned(rtmr1=[ONE, value])) == AFFIRMED


async def test_a_release_policy_evaluates_the_longest_claims() -> None:
    """A log of 1,023 events, and init-data of 1 MiB in 1,000 values that JSON escapes."""
    events: list[JsonValue] = [
        {"index": 1 + n % 4, "type": 2**31 + n % 20, "digest": "ab" * 48} for n in range(1023)
    ]
    content: JsonValue = {"data": {f"name{n}": "\n" * 1040 for n in range(999)}}
    guest = peer(eventLog={"events": events}, initData=content)
    policy = HEAD + f"allow if {{\n\t{EVIDENCE}.init_data_claims.data.name998\n\tdata.plugin\n}}\n"
    assert await allows(policy, guest)


@pytest.mark.parametrize("error", [StorageError("unreadable"), PolicyInvalid("no JSON")])
async def test_unreadable_reference_data_rates_no_guest(error: Exception) -> None:
    with pytest.raises(PolicyUnavailable, match=str(error)):
        await trust(GUEST, error)


async def test_an_unverified_device_is_a_warning() -> None:
    claims: dict[str, JsonValue] = {**GUEST.claims, "unverifiedDevices": ["nvidia"]}
    assert await trust(replace(GUEST, claims=claims), pinned()) == {**AFFIRMED, "hardware": 32}


async def test_a_policy_that_reads_these_names_can_be_stored() -> None:
    for policy in (HEAD, OPEN, PROVED, TRUSTED):
        await PolicyTrial(TEES).check(PolicyDocuments(policy, "{}"), None)


async def test_a_policy_that_splits_the_path_is_refused() -> None:
    older = HEAD + 'path := split(data["resource-path"], "/")\n\nallow if path[0] == "default"\n'
    with pytest.raises(PolicyInvalid, match="the policy failed: line 5: "):
        await PolicyTrial(TEES).check(PolicyDocuments(older, "{}"), None)


def test_reports_and_coverage_provide_the_request_of_the_input() -> None:
    written: dict[str, JsonValue] = {
        "resource": {"path": "keys/a/b/c", "query": {"version": "1"}},
        "submods": {"cpu0": {"ear.status": "affirming"}},
    }
    policy = TRUSTED + 'path := data["resource-path"]\n\nversion := data.query.version\n'
    compiled = CompiledPolicy.compile(policy, "{}")
    found = report(compiled, policy, written, None, pinning=NO_REQUIREMENTS)
    assert found.allow
    values = {rule.name: rule.value for rule in found.rules}
    assert (values["path"], values["version"]) == (["a", "b", "c"], "1")
    assert [each.right for each in found.comparisons if each.operator == "!="] == ['"affirming"']
    assert found.notes == ()
    counted = PolicyCoverage(compiled, pinning=NO_REQUIREMENTS)
    counted.add(written, None)
    assert counted.accepted == 1
    claims = tdx_claims(resource={"path": "keys/a/b/c"})
    values = {
        rule.name: rule.value
        for rule in report(
            compiled, policy, claims, TEES.named("tdx"), pinning=NO_REQUIREMENTS
        ).rules
    }
    assert values["path"] is None


RATING = "package policy\n\nimport rego.v1\n\n"


@pytest.mark.parametrize(
    "policy",
    [
        RATING + 'default hardware := 97\n\ntrust_claims := {"hardware": hardware}\n',
        RATING + "default executables := 33\n\nexecutables := 3 if input.tdx\n",
        RATING + 'default allow := false\nallow if input.svn in query_reference_value("svn")\n',
    ],
)
async def test_an_attestation_policy_of_trustee_is_refused_with_advice(policy: str) -> None:
    for refuse in (
        PolicyTrial(TEES).check(PolicyDocuments(policy, "{}"), "tdx"),
        CompiledPolicies().evaluate(PolicyDocuments(policy, "{}"), {}),
    ):
        with pytest.raises(PolicyInvalid, match=r"attestation policy of trustee.*a rule `allow`"):
            await refuse


async def test_any_other_broken_policy_is_refused_without_that_advice() -> None:
    with pytest.raises(PolicyInvalid) as raised:
        CompiledPolicy.compile("package policy\n\nimport rego.v1\n\nallowed := true\n", "{}")
    assert "trustee" not in str(raised.value)


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"resource": None},
        {"resource": "keys/a/b/c"},
        {"resource": {}},
        {"resource": {"path": None}},
        {"resource": {"path": ["a"]}},
        {"path": "keys/a/b/c"},
    ],
)
def test_an_input_without_a_path_describes_no_request(written: dict[str, JsonValue]) -> None:
    assert trustee.request(written) == {}


def test_a_request_without_a_query_has_an_empty_one() -> None:
    found = trustee.request({"resource": {"path": "a/keys/c"}})
    assert found == {"plugin": "resource", "resource-path": ["a", "keys", "c"], "query": {}}


@pytest.mark.parametrize(
    ("tee", "policy"),
    [("tdx", "tdxPolicy.rego"), ("sample", "samplePolicy.rego"), ("none", "none"), ("csv", "csv")],
)
def test_a_submodule_names_the_policy_that_accepted_the_guest(tee: str, policy: str) -> None:
    found = trustee.submods(TEES, tee, {}, AFFIRMED)
    for submodule in found.values():
        assert isinstance(submodule, dict)
        assert submodule["ear.appraisal-policy-id"] == policy
    assert ("cpu" in found) is (tee != "tdx")


def test_the_advice_is_one_sentence_for_attestation_policies_alone() -> None:
    for policy in ("", HEAD, OPEN, PROVED, TRUSTED, "garbage"):
        assert trustee.advice(policy) == ""
    text = trustee.advice('trust_claims := {"hardware": 97}')
    assert text.startswith("; this is an attestation policy of trustee, which rates a guest and ")
    assert "decides nothing: write a rule `allow` that compares `input` with `data` (" in text
    assert text.endswith(
        " policy of this TEE), and reference values instead of query_reference_value"
    )
