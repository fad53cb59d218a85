"""Each decision in the audit trail names what produced it, and each change comes first."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import store

POLICY = "opa/tdxPolicy.rego"
RELEASE = b"package policy\nallow = true\n"


def records(broker: RunningBroker) -> list[dict[str, Any]]:
    decoded = [
        json.loads(line)
        for path in Path(broker.data / "audit").glob("*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    decoded.sort(key=lambda record: record["number"])
    return decoded


def of(broker: RunningBroker, event: str) -> list[dict[str, Any]]:
    return [record["fields"] for record in records(broker) if record["event"] == event]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def release(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY


async def test_a_decision_names_policy_reference_data_collateral_and_evidence(
    broker: RunningBroker,
) -> None:
    await release(broker)
    (accepted,) = of(broker, "guest.accepted")
    assert accepted["policy"] == sha256((broker.data / POLICY).read_bytes())
    used, used_by_release = of(broker, "documents.used")
    assert (used["policy"], used["reference"]) == (accepted["policy"], accepted["reference"])
    (collateral,) = of(broker, "collateral.used")
    assert accepted["collateral"] == collateral["sha256"]
    assert len(accepted["evidence"]) == 64
    (released,) = of(broker, "secret.released")
    assert released["policy"] == sha256((broker.data / "opa/releasePolicy.rego").read_bytes())
    assert len(released["data"]) == 64
    assert used_by_release == {"policy": released["policy"], "data": released["data"]}
    assert released["appraisal"] == accepted["appraisal"]


async def test_a_change_by_hand_is_recorded_before_it_decides(broker: RunningBroker) -> None:
    await release(broker)
    text = (broker.data / POLICY).read_bytes() + b"# by hand\n"
    store(broker, POLICY, text)
    store(broker, "opa/releasePolicy.rego", RELEASE)
    await release(broker)
    events = [record["event"] for record in records(broker)]
    first, second = [index for index, name in enumerate(events) if name == "guest.accepted"][:2]
    changed = [
        index
        for index, record in enumerate(records(broker))
        if record["event"] == "file.changed" and record["fields"]["sha256"] == sha256(text)
    ]
    assert first < changed[0] < second
    assert "documents.used" in events[first:second]
    accepted = of(broker, "guest.accepted")
    assert [fields["policy"] == sha256(text) for fields in accepted] == [False, True]
    released = events.index("secret.released", second)
    assert of(broker, "secret.released")[-1]["policy"] == sha256(RELEASE)
    assert records(broker)[released - 1]["event"] == "documents.used"
    assert records(broker)[released - 1]["fields"]["policy"] == sha256(RELEASE)


async def test_the_same_sources_are_recorded_once(broker: RunningBroker) -> None:
    for _ in range(3):
        await release(broker)
    assert len(of(broker, "guest.accepted")) == 3
    assert [fields.get("tee") for fields in of(broker, "documents.used")] == ["tdx", None]
    assert len(of(broker, "collateral.used")) == 1
