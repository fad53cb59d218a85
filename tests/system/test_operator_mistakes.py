"""Mistakes of operators, each as a command and its output, which reports what decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.broker import KID, RunningBroker
from tests.support.channel import store
from tests.support.command import Ended
from tests.support.refused_guests import HONEST, OTHER, refused_for, seen
from tests.support.verdict import verdict
from verdictd_py.simulator import TdMeasurements

pytestmark = pytest.mark.broker(verifier=("tdx",))

UNPINNED = "UNPINNED: tdx guests are accepted with any value of "
MRTD = TdMeasurements().mr_td.hex()
OWN = b"""package policy
import rego.v1
default allow := false
allow if input.fmspc in data.rack
"""


async def accepted(broker: RunningBroker) -> bool:
    broker.events.events.clear()
    await seen(broker)
    return bool(broker.events.named("guest.accepted"))


def file(broker: RunningBroker, content: str | bytes) -> str:
    path = broker.data.parent / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


async def set_data(broker: RunningBroker, content: str | bytes, name: str = "tdxData") -> Ended:
    return await verdict(broker, "reference", "set", name, file(broker, content))


async def set_policy(broker: RunningBroker, name: str, content: bytes) -> Ended:
    return await verdict(broker, "policy", "set", name, file(broker, content))


def stored(broker: RunningBroker) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in (broker.data / "opa").iterdir()}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"mrtd": [MRTD]}, "'mrtd', so that it would pin nothing; did you mean mrTd?"),
        ({"mr_td": [MRTD]}, "'mr_td', so that it would pin nothing; did you mean mrTd?"),
        ({"RTMR1": [HONEST]}, "'RTMR1', so that it would pin nothing; did you mean rtmr1?"),
        ({"tcbStatus": ["Uptodate"]}, "there is no status 'Uptodate'; did you mean UpToDate?"),
        ({"mrTd": [MRTD[:-2]]}, "is not 96 lower-case hex digits"),
        ({"mrTd": [MRTD.upper()]}, f"did you mean {MRTD}?"),
        ({"mrTd": MRTD}, "mrTd is not a list of accepted values"),
        ({"tcbGraceDays": {"outOfDate": 30}}, "did you mean OutOfDate?"),
        ({"rack": ["00806f050000"]}, "store the policy that reads data.rack first"),
    ],
    ids=str,
)
async def test_reference_data_that_would_pin_nothing_is_refused(
    broker: RunningBroker, data: dict[str, object], said: str
) -> None:
    before = stored(broker)
    line = (await set_data(broker, json.dumps(data))).complaint(1, "verdict-py")
    assert line.startswith("the broker refused: tdxData: ")
    assert said in line
    upstream = ("--set-opa-reference", "tdxData", file(broker, json.dumps(data)))
    assert said in (await verdict(broker, *upstream)).complaint(1, "verdict-py")
    assert stored(broker) == before


async def test_other_names_are_stored_if_the_policy_reads_them(
    broker: RunningBroker,
) -> None:
    data = json.dumps({"rack": ["50806f000000"], "mrTd": []})
    assert (await set_policy(broker, "tdxPolicy.rego", OWN)).status == 0
    assert (await set_data(broker, data)).stdout == b"tdxData is in force\n"
    packaged = (Path(__file__).parents[2] / "policies" / "tdxPolicy.rego").read_bytes()
    line = (await set_policy(broker, "tdxPolicy.rego", packaged)).complaint(1, "verdict-py")
    assert "no policy reads 'rack'" in line
    assert (await set_data(broker, "{}")).status == 0
    assert (await set_policy(broker, "tdxPolicy.rego", packaged)).status == 0


async def test_an_invalid_edit_of_a_file_refuses_guests_and_is_reported(
    broker: RunningBroker,
) -> None:
    assert await accepted(broker)
    for data in ({"mrtd": [MRTD]}, {"mrTd": [MRTD], "RTMR1": [HONEST]}, {"mrTd": ["ab"]}):
        store(broker, "opa/tdxData", json.dumps(data).encode())
        assert not await accepted(broker)
    explained = (await verdict(broker, "explain", "--last")).stdout.decode()
    assert "tdxData: mrTd: 'ab' is not 96 lower-case hex digits" in explained
    status = (await verdict(broker, "status")).stdout.decode()
    assert "PROBLEM" in status
    assert "tdx: tdxData: mrTd: 'ab' is not 96" in status
    shown = await verdict(broker, "reference", "show")
    assert (shown.status, shown.stdout) == (0, b'{"mrTd": ["ab"]}\n')
    assert shown.stderr.startswith("PROBLEM: no guest is judged: tdxData: mrTd: ")
    warnings = [each["reason"] for each in broker.events.named("warning.policy")]
    assert len(warnings) == len(set(warnings))  # recorded once each, not at every check
    assert "tdxData: mrTd: 'ab' is not 96 lower-case hex digits" in warnings
    broker.events.events.clear()
    store(broker, "opa/tdxData", json.dumps({"mrTd": [MRTD]}).encode())
    assert await accepted(broker)
    assert "PROBLEM" not in (await verdict(broker, "status")).stdout.decode()
    assert broker.events.named("policy.loaded")


async def test_wrong_files_are_reported_at_start(broker: RunningBroker) -> None:
    store(broker, "opa/tdxData", b'{"mrtd": []}')
    store(broker, "opa/tdxdata", b"{}")
    await broker.daemon.reload()
    warning = broker.events.named("warning.policy")[-1]
    assert "did you mean mrTd?" in str(warning["reason"])
    stray = broker.events.named("warning.document")[-1]
    assert (stray["name"], stray["reason"]) == (
        "tdxdata",
        "nothing reads tdxdata; did you mean tdxData?",
    )


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (
            {"tdx": {"old": {"values": {"RTMR1": [HONEST]}}}},
            "'RTMR1' is not a measurement; did you",
        ),
        ({"tdx": {"old": {"values": {"rtmr1": ["ab"]}}}}, "set old: rtmr1: 'ab' is not 96"),
        ({"TDX": {"old": {"values": {"rtmr1": [HONEST]}}}}, "no TEE 'TDX'; did you mean tdx?"),
    ],
    ids=["name", "form", "TEE"],
)
async def test_an_invalid_edit_of_the_sets_refuses_guests(
    broker: RunningBroker, sets: dict[str, dict[str, dict[str, object]]], said: str
) -> None:
    for of_tee in sets.values():
        for made in of_tee.values():
            made["addedAt"] = "2026-01-01T00:00:00Z"
    store(broker, "opa/referenceSets", json.dumps(sets).encode())
    assert not await accepted(broker)
    assert said in (await verdict(broker, "status")).stdout.decode()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tdxpolicy.rego", "tdxPolicy.rego"),
        ("tdxPolicy", "tdxPolicy.rego"),
        ("tdx-policy.rego", "tdxPolicy.rego"),
        ("releasepolicy.rego", "releasePolicy.rego"),
    ],
)
async def test_a_policy_under_nearly_the_right_name_is_refused(
    broker: RunningBroker, name: str, meant: str
) -> None:
    before = stored(broker)
    line = (await set_policy(broker, name, OWN)).complaint(1, "verdict-py")
    assert line == f"the broker refused: nothing reads {name}; did you mean {meant}?"
    assert stored(broker) == before


async def test_a_policy_that_nothing_reads_is_not_in_force(broker: RunningBroker) -> None:
    ended = await set_policy(broker, "team.rego", OWN)
    assert (ended.status, ended.stdout) == (0, b"team.rego is stored, and not in force\n")
    note = "nothing reads team.rego: it takes effect once releasePolicies names it for a prefix\n"
    assert ended.stderr.startswith(note)
    ended = await set_data(broker, '{"keys/team/": "team.rego"}', "releasePolicies")
    assert ended.stdout == b"releasePolicies is in force\n"
    assert (await set_policy(broker, "team.rego", OWN)).stdout == b"team.rego is in force\n"
    line = (await verdict(broker, "policy", "delete", "team.rego")).complaint(1, "verdict-py")
    assert line == (
        "the broker refused: team.rego decides about release of 'keys/team/'; "
        "set another one instead"
    )


async def test_upstreams_options_store_under_any_name_and_report_that(
    broker: RunningBroker,
) -> None:
    """A client of upstream's may choose its names; none is reported as in force."""
    for option, name, content, said in (
        ("--set-opa-policy", "tdxpolicy.rego", OWN, "did you mean tdxPolicy.rego?"),
        ("--set-opa-policy", "team.rego", OWN, "it takes effect once releasePolicies names it"),
        ("--set-opa-reference", "tdxdata", b"{}", "did you mean tdxData?"),
    ):
        ended = await verdict(broker, option, name, file(broker, content))
        assert ended.status == 0
        text = ended.stdout.decode()
        assert text.startswith(f"{name} is stored, and not in force: nothing reads {name}")
        assert said in text
        assert "UNPINNED: tdx guests" in ended.stderr
    ended = await verdict(broker, "--set-opa-policy", "tdxPolicy.rego", file(broker, OWN))
    assert ended.stdout == b"tdxPolicy.rego is in force\n"


async def test_reference_data_under_a_name_that_nothing_reads_is_refused(
    broker: RunningBroker,
) -> None:
    before = stored(broker)
    for name, said in (
        ("tdxdata", "did you mean tdxData?"),
        ("referencesets", "did you mean referenceSets?"),
        ("team", "the broker reads tdxData, sgxData, sampleData, releaseData, releasePolicies"),
    ):
        line = (await set_data(broker, "{}", name)).complaint(1, "verdict-py")
        assert line.startswith(f"the broker refused: nothing reads {name}")
        assert said in line
    assert stored(broker) == before


async def test_documents_are_listed_and_deleted(broker: RunningBroker) -> None:
    store(broker, "opa/tdxpolicy.rego", OWN)
    listed = (await verdict(broker, "policy", "list", "--json")).items
    found = {each["name"]: each for each in listed}
    assert set(found) == set(stored(broker))
    assert found["tdxPolicy.rego"]["kind"] == "policy"
    assert found["tdxPolicy.rego"]["read_by"] == ["appraisal of tdx"]
    assert found["tdxPolicy.rego"]["in_force"]
    assert not found["sgxPolicy.rego"]["in_force"]  # no verifier
    assert not found["tdxpolicy.rego"]["in_force"]
    table = (await verdict(broker, "policy", "list")).stdout.decode()
    assert "nothing reads tdxpolicy.rego; did you mean tdxPolicy.rego?" in table
    ended = await verdict(broker, "policy", "delete", "tdxpolicy.rego")
    assert ended.stdout == b"tdxpolicy.rego is deleted\n"
    assert ended.stderr.startswith(f"{UNPINNED}mrTd, ")
    assert "tdxpolicy.rego" not in stored(broker)
    (event,) = broker.events.named("policy.deleted")
    assert event["name"] == "tdxpolicy.rego"
    for name, said in (
        ("tdxPolicy.rego", "tdxPolicy.rego decides about appraisal of tdx"),
        ("tdxData", "tdxData decides about appraisal of tdx"),
        ("releasePolicy.rego", "decides about every release"),
        ("none.rego", "opa/none.rego is missing"),
        ("../keys", "name"),
    ):
        assert said in (await verdict(broker, "policy", "delete", name)).complaint(1, "verdict-py")


async def test_the_combined_reference_data_is_displayed(broker: RunningBroker) -> None:
    add = await verdict(broker, "reference", "add", "prod", f"rtmr1={OTHER}")
    assert add.stderr.startswith(f"{UNPINNED}mrTd, rtmr0, ")
    assert "rtmr1" not in add.stderr
    shown = await verdict(broker, "reference", "show")
    assert json.loads(shown.stdout)["rtmr1"] == [OTHER]
    assert "these values decide: tdxData with its named sets" in shown.stderr
    assert "UNPINNED: any value is accepted for mrTd, rtmr0, rtmr2" in shown.stderr
    alone = await verdict(broker, "reference", "show", "--stored")
    assert json.loads(alone.stdout)["rtmr1"] == []
    data = (await verdict(broker, "reference", "show", "--json")).json
    assert (data["values"]["rtmr1"], data["stored"]["rtmr1"]) == ([OTHER], [])
    assert "rtmr1" not in data["unpinned"]
    which = await seen(broker)  # refused: the set pins another kernel
    pin = ("reference", "pin", "--from", which, "--field", "rtmr1", "--yes")
    ended = await verdict(broker, *pin)
    assert ended.status == 0
    assert OTHER in ended.stdout.decode()  # accepted now, by the set
    assert "any value" not in ended.stdout.decode()
    assert json.loads(stored(broker)["tdxData"])["rtmr1"] == [HONEST]  # and only this is added
    assert ended.stderr.startswith(f"{UNPINNED}mrTd, rtmr0")


async def test_values_that_a_set_accepts_are_not_pinned_again(broker: RunningBroker) -> None:
    which = await seen(broker)
    await verdict(broker, "reference", "add", "prod", f"rtmr1={HONEST}")
    pin = ("reference", "pin", "--from", which, "--field", "rtmr1", "--yes")
    ended = await verdict(broker, *pin)
    assert "accepted already" in ended.stdout.decode()
    assert (ended.status, "accepted already" in ended.stderr) == (1, True)


async def test_a_retired_set_is_deleted_only_if_values_stay_pinned(broker: RunningBroker) -> None:
    await verdict(broker, "reference", "add", "old", f"rtmr1={OTHER}")
    delete = ("reference", "delete", "old")
    line = (await verdict(broker, *delete)).complaint(1, "verdict-py")
    assert "the set old is in force; retire it first" in line
    assert (await verdict(broker, "reference", "retire", "old")).status == 0
    line = (await verdict(broker, *delete)).complaint(1, "verdict-py")
    assert "without this set any value of rtmr1 would be accepted" in line
    assert not await accepted(broker)
    await verdict(broker, "reference", "add", "new", f"rtmr1={HONEST}")
    ended = await verdict(broker, *delete)
    assert (ended.status, ended.stdout) == (0, b"the set old is deleted\n")
    listed = (await verdict(broker, "reference", "sets", "--json")).items
    assert [each["name"] for each in listed] == ["new"]
    assert await accepted(broker)
    line = (await verdict(broker, *delete)).complaint(1, "verdict-py")
    assert "there is no set" in line


async def test_explain_reports_the_reasons_of_the_policy_in_force(broker: RunningBroker) -> None:
    """The packaged policy would refuse rtmr1; this policy does not read it."""
    await set_policy(broker, "tdxPolicy.rego", OWN)
    which = await refused_for(broker, rack=["000000000000"], rtmr1=[OTHER])
    explained = (await verdict(broker, "explain", which)).stdout.decode()
    assert "policy: allow is false, expected true" in explained
    assert OTHER not in explained
    own = OWN + b'reasons contains sprintf("rack %v", [input.fmspc]) if not allow\n'
    await set_policy(broker, "tdxPolicy.rego", own)
    which = await seen(broker)
    explained = (await verdict(broker, "explain", which)).stdout.decode()
    assert "rack 50806f000000" in explained
    assert "rtmr1" not in explained


async def test_every_change_reports_the_open_problems(broker: RunningBroker) -> None:
    ended = await set_data(broker, json.dumps({"mrTd": [MRTD]}))
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{UNPINNED}rtmr0, rtmr1, ")
    assert "mrTd" not in line
    ended = await set_policy(broker, "tdxPolicy.rego", OWN)
    last = ended.stderr.splitlines()[-1]
    assert last == (
        "UNREAD: tdxData: tdxPolicy.rego does not read mrTd: these values decide nothing"
    )


async def test_a_prefix_of_release_policies_that_no_secret_has_is_reported(
    broker: RunningBroker,
) -> None:
    """Paths of keys begin with `keys/`: without that, the policy guards nothing."""
    await set_policy(
        broker, "deny.rego", b"package policy\nimport rego.v1\ndefault allow := false\n"
    )
    prefix = KID[:8]
    ended = await set_data(broker, json.dumps({prefix: "deny.rego"}), "releasePolicies")
    assert ended.stderr.splitlines()[-1] == (
        f"UNREAD: releasePolicies: no secret has a path that begins with '{prefix}'; "
        f"did you mean 'keys/{prefix}'?"
    )
