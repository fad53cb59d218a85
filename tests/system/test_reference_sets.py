"""Named sets with verdict-py: added, pinned, retired and compared, with effect at once."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from tests.support.broker import RunningBroker
from tests.support.channel import store
from tests.support.refused_guests import HONEST, OTHER, refused_for, seen
from tests.support.verdict import only_remarks, verdict
from verdictd_py import daemon as app


async def accepted(broker: RunningBroker) -> bool:
    broker.events.events.clear()
    await seen(broker)
    return bool(broker.events.named("guest.accepted"))


async def test_a_set_accepts_guests_until_it_is_retired(broker: RunningBroker) -> None:
    added = await verdict(broker, "reference", "add", "old-kernel", f"rtmr1={OTHER}")
    assert added.status == 0
    assert not await accepted(broker)
    which = await seen(broker)
    soon = (app.utc_now() + timedelta(days=30)).isoformat()
    pin = ("reference", "pin", "--from", which, "--set", "prod", "--expires", soon, "--yes")
    ended = await verdict(broker, *pin, "--field", "rtmr1")
    only_remarks(ended)
    assert await accepted(broker)
    listed = (await verdict(broker, "reference", "sets", "--json")).items
    assert [(each["name"], each["state"]) for each in listed] == [
        ("old-kernel", "in force"),
        ("prod", "in force"),
    ]
    assert listed[1]["appraisal"] == which
    assert listed[1]["values"] == [{"field": "rtmr1", "values": [HONEST]}]
    differ = await verdict(broker, "reference", "diff", "old-kernel", "prod", "--json")
    assert differ.status == 1
    assert (differ.json["first"], differ.json["second"]) == ("old-kernel", "prod")
    assert differ.json["fields"] == [{"field": "rtmr1", "first": [OTHER], "second": [HONEST]}]
    assert (await verdict(broker, "reference", "retire", "prod")).status == 0
    assert not await accepted(broker)
    assert (await verdict(broker, "reference", "retire", "old-kernel")).status == 0
    assert not await accepted(broker)  # nothing in force is not everything
    (refusal,) = broker.events.named("guest.refused")
    assert "(prod is retired)" in str(refusal["reasons"])
    assert json.loads((broker.data / "opa" / "tdxData").read_text())["rtmr1"] == []


async def test_a_policy_is_tested_with_the_named_sets(
    broker: RunningBroker, tmp_path: Path
) -> None:
    """The stored data of a TEE is tested with its sets."""
    good = {"debug": False, "tcbStatus": "UpToDate", "rtmr1": HONEST}
    (tmp_path / "claims").write_text(json.dumps(good))
    for kernel, status in ((OTHER, 1), (HONEST, 0)):
        assert (
            await verdict(broker, "reference", "add", kernel[:8], f"rtmr1={kernel}")
        ).status == 0
        ended = await verdict(broker, "policy", "test", str(tmp_path / "claims"), "--json")
        assert ended.status == status
        (row,) = [row for row in ended.json["claims"] if row["claim"] == "rtmr1"]
        assert row["expected"][-1] == kernel
    (broker.data / "opa" / "tdxPolicy.rego").unlink()
    ended = await verdict(broker, "policy", "test", str(tmp_path / "claims"))
    assert "opa/tdxPolicy.rego is missing" in ended.complaint(1, "verdict-py")


async def test_a_refused_command_is_reported_in_one_line(broker: RunningBroker) -> None:
    which = await refused_for(broker, rtmr1=[OTHER])
    await verdict(broker, "reference", "add", "one", f"rtmr1={OTHER}")
    for words, said in (
        (("add", "one", f"rtmr1={OTHER}"), "the set one exists already"),
        (("add", "../x", f"rtmr1={OTHER}"), "segment"),
        (("add", "two", "reportData=aa"), "is not a measurement"),
        (("add", "two", "rtmr1=aa"), "96 lower-case hex digits"),
        (
            ("add", "two", f"rtmr1={OTHER}", "--expires", "2020-01-01T00:00:00Z"),
            "is not a future time",
        ),
        (("retire", "none"), "there is no set"),
        (("diff", "one", "none"), "no set none"),
        (
            ("pin", "--from", "none", "--set", "x", "--yes", "--field", "rtmr1"),
            "no guest with this id",
        ),
    ):
        line = (await verdict(broker, "reference", *words)).complaint(1, "verdict-py")
        assert said in line
    pin = ("reference", "pin", "--from", which, "--yes", "--field", "rtmr1", "--expires", "x")
    assert "--expires needs --set" in (await verdict(broker, *pin)).stderr


async def test_unreadable_sets_refuse_every_guest(broker: RunningBroker) -> None:
    assert await accepted(broker)
    store(broker, "opa/referenceSets", b"{")
    assert not await accepted(broker)
    words = ("reference", "set", "referenceSets", str(broker.data / "opa" / "referenceSets"))
    assert (await verdict(broker, *words)).status == 1
