"""A running broker replays what guests say of their boot; how strictly, its operator decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.formats.test_eventlog import command_line, event, written
from tests.system.broker import RunningBroker, running_broker
from tests.system.channel import store
from tests.system.test_swapped_evidence import read
from verdictd_py import daemon as app
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.formats.eventlog import EventLog
from verdictd_py.protocols.ratstls.issue import Form, issue
from verdictd_py.simulator import SimulatedPlatform, TdMeasurements
from verdictd_py.tees.tdx import tee as tdx

BOOT = (command_line(b"quiet"), event(1, 0x80000007, b"action"))
POLICY = b"""package policy

import rego.v1

default allow := false

allow if input.eventLog.kernelCommandLine == data.commandLine

reasons contains "another command line" if not allow
"""


async def judged(broker: RunningBroker, log: bytes, *, rtmr3: bytes = bytes(48)) -> Appraisal:
    """A guest that measured BOOT, and `rtmr3`, and shows `log`."""
    td = TdMeasurements(**{**EventLog(BOOT, tdx.REGISTERS).replay(), "rtmr3": rtmr3})  # type: ignore[arg-type]  # by name
    certificate = issue(
        Form.CURRENT,
        key=ec.generate_private_key(ec.SECP256R1()),
        quote_for=broker.attester(measurements=td).quote,
        now=broker.now,
    )
    appraiser: Appraiser = broker.daemon._attested._appraiser
    return await appraiser.judge(lambda now: replace(read(certificate, now), event_log=log))


@pytest.mark.parametrize("allowed", [False, True])
async def test_rtmr3_may_be_extended_later_if_the_operator_says_so(
    tmp_path: Path, allowed: bool
) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform, allow_rtmr3_mismatch=allowed) as broker:
        log = written(*BOOT)
        assert (await judged(broker, log)).accepted
        assert (await judged(broker, log, rtmr3=b"\x33" * 48)).accepted is allowed
        assert not (await judged(broker, written(BOOT[0]))).accepted


async def test_what_a_boot_proves_decides(tmp_path: Path) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform) as broker:
        store(broker, "opa/tdxPolicy.rego", POLICY)
        for line, accepted in (("quiet", True), ("quiet debug", False)):
            store(broker, "opa/tdxData", f'{{"commandLine": "{line}"}}'.encode())
            appraisal = await judged(broker, written(*BOOT))
            assert appraisal.accepted is accepted
        assert [reason.text for reason in appraisal.reasons] == ["another command line"]
