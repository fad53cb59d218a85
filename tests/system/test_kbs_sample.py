"""Guests without hardware: accepted only with unsafe options, and marked as such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import RunningBroker
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.rcar_guests import (
    EVERY_GUEST,
    attest,
    attested,
    connected,
    sample_guest,
    tdx_guest,
    with_key,
)
from verdictd_py.errors import ConfigError
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import Version

FLAGS = {"insecure_sample_verifier": True, "insecure_sample_data_dir": True}
pytestmark = pytest.mark.broker(kbs=True, unsafe=FLAGS)


@pytest.mark.parametrize(("version", "kind"), EVERY_GUEST)
async def test_sample_guests_are_served_next_to_genuine_ones(
    broker: RunningBroker, version: Version, kind: TeeKeyKind
) -> None:
    for guest in (sample_guest(version, kind), tdx_guest(broker.platform, version, kind)):
        async with connected(url_of(broker), guest) as session:
            assert (await session.resource(PATH)).reveal() == SECRET
    assert [each["tee"] for each in broker.events.named("guest.accepted")] == ["sample", "tdx"]


async def test_every_use_of_the_sample_verifier_is_reported(broker: RunningBroker) -> None:
    flags = {each["flag"] for each in broker.events.named("unsafe.option")}
    assert {"--insecure-sample-verifier", "--insecure-sample-data-dir"} <= flags
    async with attested(url_of(broker), sample_guest()) as session:
        said: Any = (await session.token()).claims
    assert said["submods"]["cpu0"]["ear.status"] == "contraindicated"


async def test_a_key_replaced_in_transit_is_refused(broker: RunningBroker) -> None:
    """Sample evidence proves nothing, but its key must match the request."""
    other = TeeKey.new(TeeKeyKind.EC_P256, Version.V0_4_0).jwk
    async with connected(url_of(broker), sample_guest()) as session:
        with pytest.raises(KbsRefused, match="binding-mismatch"):
            await attest(session, with_key(other))


async def test_sample_guests_have_a_separate_policy(broker: RunningBroker) -> None:
    (broker.data / "opa" / "samplePolicy.rego").write_text(
        "package policy\nimport rego.v1\ndefault allow := false\n"
    )
    async with connected(url_of(broker), sample_guest()) as session:
        with pytest.raises(KbsRefused, match="policy-refused"):
            await session.handshake()
    async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
        assert (await session.get(str(PATH))).reveal() == SECRET


async def test_without_the_flags_sample_guests_are_refused(tmp_path: Path) -> None:
    async with (
        running_kbs(tmp_path / "real") as broker,
        connected(url_of(broker), sample_guest()) as session,
    ):
        with pytest.raises(KbsRefused, match="evidence of sample is not served here") as raised:
            await session.handshake()
    assert (raised.value.status, raised.value.variant) == (401, "AttestationError")
    for alone in FLAGS:
        with pytest.raises(ConfigError, match="insecure-sample"):
            async with running_kbs(tmp_path / alone, unsafe={alone: True}):
                pass
