"""A running broker replays the event logs of guests, as strictly as its operator configures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.broker import running_broker
from tests.support.channel import store
from tests.support.eventlogs import pull_image, without_ccel, written
from tests.support.measured_boot import BOOT, judged
from verdictd_py import daemon as app
from verdictd_py.simulator import SimulatedPlatform

POLICY = b"""package policy

import rego.v1

default allow := false

allow if input.eventLog.kernelCommandLine == data.commandLine

reasons contains "another command line" if not allow
"""


@pytest.mark.parametrize("allowed", [False, True])
async def test_rtmr3_may_be_extended_later_if_the_operator_allows_it(
    tmp_path: Path, allowed: bool
) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform, allow_rtmr3_mismatch=allowed) as broker:
        log = written(*BOOT)
        assert (await judged(broker, log)).accepted
        assert (await judged(broker, log, rtmr3=b"\x33" * 48)).accepted is allowed
        assert not (await judged(broker, written(BOOT[0]))).accepted


async def test_a_policy_decides_by_the_event_log(tmp_path: Path) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform) as broker:
        store(broker, "opa/tdxPolicy.rego", POLICY)
        for line, accepted in (("quiet", True), ("quiet debug", False)):
            store(broker, "opa/tdxData", f'{{"commandLine": "{line}"}}'.encode())
            appraisal = await judged(broker, written(*BOOT))
            assert appraisal.accepted is accepted
        assert [reason.text for reason in appraisal.reasons] == ["another command line"]


def images_policy() -> bytes:
    """Return a policy that accepts images by the rule in the documentation of policies."""
    text = Path("policies/README.md").read_text()
    rule = re.search(r"```rego\n(images_allowed if .*?)```", text, re.DOTALL)
    assert rule is not None
    return f"package policy\n\nimport rego.v1\n\nallow if images_allowed\n\n{rule[1]}".encode()


async def test_a_policy_decides_by_the_images_that_a_guest_pulled(tmp_path: Path) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    good, evil = pull_image("registry.example/good"), pull_image("registry.example/evil")
    hidden = replace(evil, kind=0xA)
    digest = re.search(rb'"digest":"(.*?)"', good.data)
    assert digest is not None
    async with running_broker(tmp_path, platform) as broker:
        store(broker, "opa/tdxPolicy.rego", images_policy())
        store(broker, "opa/tdxData", json.dumps({"images": [digest[1].decode()]}).encode())
        for later, accepted in (
            ((), True),
            ((good,), True),
            ((good, evil), False),
            ((good, hidden), False),
        ):
            for log in (written(*BOOT, *later), without_ccel(*later)):
                appraisal = await judged(broker, log, later=later)
                assert appraisal.accepted is accepted, (later, appraisal.reasons)
        assert not (await judged(broker, written(*BOOT, good), later=(good, evil))).accepted
