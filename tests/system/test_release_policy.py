"""Release policies in a running broker: accepted guests get different secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import store
from tests.support.verdict import verdict
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import TdMeasurements

TEAM_A = TdMeasurements(mr_config_id=b"\xaa" * 48)
POLICY = """package policy

import rego.v1

default allow := false

allow if input.claims.mrConfigId in data.teams[input.resource.path]

reasons contains "not the team's guest" if not allow
"""


async def test_a_team_gets_only_its_own_secrets(broker: RunningBroker, tmp_path: Path) -> None:
    """The policy is stored with verdict-py and in force for the next request."""
    (tmp_path / "teamA.rego").write_text(POLICY)
    (tmp_path / "prefixes").write_text('{"team-a/": "teamA.rego", "keys/team-a/": "teamA.rego"}')
    teams = {path: ["aa" * 48] for path in ("team-a/secret/1", "keys/team-a/key/1")}
    (tmp_path / "teams").write_text(json.dumps({"teams": teams}))
    for words in (
        ("policy", "set", "teamA.rego", str(tmp_path / "teamA.rego")),
        ("reference", "set", "releaseData", str(tmp_path / "teams")),
        ("reference", "set", "releasePolicies", str(tmp_path / "prefixes")),
    ):
        assert (await verdict(broker, *words)).status == 0
    store(broker, "resources/team-a/secret/1", b"of team a")
    store(broker, "keys/team-a/key/1", KEY)
    async with broker.guest(broker.attester(measurements=TEAM_A)) as guest:
        assert (await guest.resource("team-a/secret/1")).reveal() == b"of team a"
        assert (await guest.resource("team-a/key/1")).reveal() == KEY
        assert (await guest.keks([KID]))[KID].reveal() == KEY
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY  # nobody's prefix
        for path in ("team-a/secret/1", "team-a/key/1"):
            with pytest.raises(BrokerRefused, match="not released to this guest"):
                await guest.resource(path)
    refused = broker.events.named("release.refused")
    assert {event["path"] for event in refused} == {"team-a/secret/1", "keys/team-a/key/1"}
    assert refused[0]["reasons"] == ("not the team's guest",)


async def test_without_a_release_policy_nothing_is_released(broker: RunningBroker) -> None:
    (broker.data / "opa" / "releasePolicy.rego").unlink()
    async with broker.guest() as guest:
        for ask in (guest.resource("Policy"), guest.keks([KID])):
            with pytest.raises(BrokerRefused):
                await ask
    assert not broker.events.named("secret.released")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is not a JSON object"),
        ('{"keys/": 1}', "not the name of a policy"),
        ('{"keys/": "a/b/c"}', "not the name of a policy"),
        ('{"keys/": "../x"}', "segment"),
        (
            '{"keys/": "missing.rego"}',
            r"store it first \(verdict-py policy set missing.rego FILE\)",
        ),
    ],
)
async def test_an_assignment_to_a_missing_policy_is_not_stored(
    broker: RunningBroker, tmp_path: Path, text: str, said: str
) -> None:
    """It would release no secret to any guest."""
    (tmp_path / "prefixes").write_text(text)
    words = ("reference", "set", "releasePolicies", str(tmp_path / "prefixes"))
    line = (await verdict(broker, *words)).complaint(1, "verdict-py")
    assert re.search(said, line)
    assert not (broker.data / "opa" / "releasePolicies").exists()
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY
