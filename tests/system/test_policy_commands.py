"""`verdict-py policy check` and `policy test`: they report what the running broker decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, running_broker
from tests.support.channel import store
from tests.support.refused_guests import HONEST, OTHER, refused_for, seen
from tests.support.verdict import beside, verdict
from verdictd_py import daemon as app
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.simulator import SimulatedPlatform

RACK = """package policy

import rego.v1

default allow := false

allow if {
	input.debug == false
	in_rack
}

in_rack if input.fmspc in data.rack

reasons contains "only machines of the first rack" if not in_rack
"""


@pytest.fixture
def rack(tmp_path: Path) -> Path:
    file = tmp_path / "rack.rego"
    file.write_text(RACK)
    return file


async def test_a_guest_is_tested_by_its_id_and_by_its_explanation(
    broker: RunningBroker, tmp_path: Path
) -> None:
    """All three ways give the same report, with the reasons of the refusal."""
    which = await refused_for(broker, rtmr1=[OTHER])
    explained = await verdict(broker, "explain", which, "--json")
    (tmp_path / "guest.json").write_bytes(explained.stdout)
    by_id = await verdict(broker, "policy", "test", "--id", which, "--json")
    by_file = await verdict(broker, "policy", "test", str(tmp_path / "guest.json"), "--json")
    words = ("policy", "test", "-", "--json")
    by_stdin = await verdict(broker, *words, stdin=explained.stdout)
    assert by_id.status == by_file.status == by_stdin.status == 1
    assert by_id.json == by_file.json == by_stdin.json
    reasons = [
        {name: value for name, value in reason.items() if name != "kind"}
        for reason in explained.json["reasons"]
    ]
    assert by_id.json["reasons"] == reasons
    (row,) = [row for row in by_id.json["claims"] if row["claim"] == "rtmr1"]
    assert (row["measured"], row["expected"], row["result"]) == (HONEST, [OTHER], "differs")
    text = (await verdict(broker, "policy", "test", "--id", which)).stdout.decode()
    assert f'{HONEST}" in ["{OTHER}"]' in text
    assert f"rtmr1\n  measured  {HONEST}\n  expected  {OTHER}\n" in text


async def test_the_offline_report_is_that_of_the_broker(
    broker: RunningBroker, tmp_path: Path
) -> None:
    which = await refused_for(broker, rtmr1=[OTHER], rtmr2=[])
    by_id = await verdict(broker, "policy", "test", "--id", which, "--json")
    (tmp_path / "guest.json").write_bytes(
        (await verdict(broker, "explain", which, "--json")).stdout
    )
    opa = broker.data / "opa"
    offline = await beside(
        *("main", "policy", "test", str(opa / "tdxPolicy.rego"), str(tmp_path / "guest.json")),
        *("--data", str(opa / "tdxData"), "--json"),
    )
    assert (offline.status, offline.json) == (1, by_id.json)
    added = await verdict(broker, "reference", "add", "now", f"rtmr1={HONEST}")
    assert added.status == 0
    by_id = await verdict(broker, "policy", "test", "--id", which, "--json")
    offline = await beside(
        *("main", "policy", "test", str(opa / "tdxPolicy.rego"), str(tmp_path / "guest.json")),
        *("--data", str(opa / "tdxData"), "--sets", str(opa / "referenceSets"), "--json"),
    )
    assert (offline.status, offline.json) == (0, by_id.json)


async def test_a_new_policy_is_tested_with_the_data_in_force(
    broker: RunningBroker, rack: Path, tmp_path: Path
) -> None:
    which = await seen(broker)
    test = ("policy", "test", "--id", which, "--policy-file", str(rack))
    refused = await verdict(broker, *test)
    assert refused.status == 1
    assert "reason: only machines of the first rack" in refused.stdout.decode()
    assert "in_rack  (undefined)" in refused.stdout.decode()
    guest = (await verdict(broker, "guest", "list", "accepted", "--json")).items[0]
    data = tmp_path / "rack-data"
    data.write_text(json.dumps({"rack": [guest["fmspc"]]}))
    accepted = await verdict(broker, *test, "--reference-file", str(data), "--json")
    assert (accepted.status, accepted.json["verdict"]) == (0, "accepted")
    assert (broker.data / "opa" / "tdxPolicy.rego").read_text() != RACK  # nothing was stored


async def test_a_test_applies_the_settings_of_the_broker(tmp_path: Path) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform, require_reference_values=True) as broker:
        which = await seen(broker)
        ended = await verdict(broker, "policy", "test", "--id", which, "--json")
        assert ended.status == 1
        assert "reference values are required" in ended.json["reasons"][0]["text"]


async def test_claims_that_the_broker_does_not_store_are_named(
    broker: RunningBroker, tmp_path: Path
) -> None:
    report = {
        "verdict": "refused",
        "tee": "tdx",
        "id": "x",
        "withheld_claims": ["eventLog"],
        "claims": {"debug": False, "tcbStatus": "UpToDate"},
    }
    (tmp_path / "guest.json").write_text(json.dumps(report))
    ended = await verdict(broker, "policy", "test", str(tmp_path / "guest.json"))
    assert "note: the guest had eventLog, which the broker does not store" in (
        ended.stdout.decode()
    )


async def test_the_input_of_a_release_policy_is_tested_with_the_release_policy(
    broker: RunningBroker, tmp_path: Path
) -> None:
    rule = "package policy\nimport rego.v1\nallow if input.resource.path in data.open\n"
    store(broker, "opa/releasePolicy.rego", rule.encode())
    asked = {"claims": {}, "appraisal": {}, "resource": {"path": "default/key/1"}}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    words = ("policy", "test", str(tmp_path / "asked.json"), "--json")
    ended = await verdict(broker, *words)
    assert (ended.status, ended.json["tee"], ended.json["claims"]) == (1, None, [])
    store(broker, "opa/releaseData", b'{"open": ["default/key/1"]}')
    assert (await verdict(broker, *words)).status == 0


async def test_a_policy_is_checked_without_being_stored(
    broker: RunningBroker, rack: Path, tmp_path: Path
) -> None:
    ended = await verdict(broker, "policy", "check", str(rack), "--json")
    assert ended.json == {
        "schema": "verdictd.v1/policy-check",
        "usable": True,
        "syntax": "v1",
        "problem": "",
        "rules": ["allow", "in_rack", "reasons"],
    }
    assert not (broker.data / "opa" / "rack.rego").exists()
    bad = tmp_path / "bad.rego"
    bad.write_text(RACK + "x := http.send({})\n")
    line = (await verdict(broker, "policy", "check", str(bad))).complaint(1, "verdict-py")
    assert "http.send (absent on purpose: a policy has no network) in line 15" in line


async def test_an_error_is_one_line(broker: RunningBroker, rack: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokerRefused):
        async with GuestConnection.open(*broker.address, broker.context(None)) as guest:
            await guest.version()
    which = str(broker.events.named("guest.refused")[-1]["appraisal"])
    files = {
        "empty.json": b"{}",
        "latin.json": b'{"mrTd": "\xff"}',
        "nan.json": b'{"mrTd": NaN}',
        "two.json": b'[{"mrTd": "a"}, {"mrTd": "b"}]',
        "tdx.json": b'{"mrTd": "aa"}',
        "none.json": b'{"verdict": "refused", "id": "1b", "tee": "tdx", "claims": {}}',
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    file = {name: str(tmp_path / name) for name in files}
    for words, status, said in (
        ((), 2, "give either a file of claims, or --id"),
        ((file["tdx.json"], "--id", which), 2, "give either a file of claims, or --id"),
        (("--id", "none"), 1, "no guest with this id is stored"),
        (("--id", which), 1, f"the guest '{which}' has no claims: its evidence did not verify"),
        ((file["none.json"],), 1, "the claims file has no claims: the evidence of guest '1b'"),
        ((file["latin.json"],), 1, "the claims file is not UTF-8, see byte 10"),
        ((file["nan.json"],), 1, "the claims file: the JSON has NaN"),
        ((file["two.json"],), 1, "the claims file has 2 guests; give the claims of one"),
        (
            *((file["tdx.json"], "--tee", "sgx"), 1),
            "the claims are of the TEE tdx, not of sgx; correct --tee",
        ),
        ((file["tdx.json"], "--tee", "abc"), 1, "'abc' is not a known TEE"),
        ((file["empty.json"], "--policy-file", str(rack)), 1, "name it: --tee tdx or sgx"),
        ((file["tdx.json"], "--policy", "none.rego"), 1, "opa/none.rego is missing"),
        ((file["tdx.json"], "--policy-file", file["latin.json"]), 1, "not UTF-8 text, see byte"),
        ((file["tdx.json"], "--policy-file", file["tdx.json"]), 1, "line 1, column 1"),
        ((str(tmp_path / "gone"),), 2, "No such file or directory; check its name"),
    ):
        line = (await verdict(broker, "policy", "test", *words)).complaint(status, "verdict-py")
        assert said in line, words


async def test_an_endless_policy_is_refused_and_its_budget_is_named(
    broker: RunningBroker, tmp_path: Path
) -> None:
    loop = tmp_path / "loop.rego"
    loop.write_text(
        "package policy\nimport rego.v1\nn := numbers.range(1, 3000)\n"
        "allow if count([1 | some a in n; some b in n; a * b == 7.5]) > 1\n"
    )
    which = await seen(broker)
    test = ("policy", "test", "--id", which, "--policy-file", str(loop))
    ended = await verdict(broker, *test, "--json")
    assert ended.status == 1
    assert "its budget is 1,000,000,000 units of fuel" in ended.json["error"]
    line = (await verdict(broker, "policy", "check", str(loop))).complaint(1, "verdict-py")
    assert "its budget is 1,000,000,000 units of fuel" in line
