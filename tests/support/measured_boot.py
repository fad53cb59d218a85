"""A measured boot: its events, and the appraisal of a guest that reports it."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.broker import RunningBroker
from tests.support.eventlogs import command_line, event
from tests.support.ratstls import read
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.formats.eventlog import Event, EventLog
from verdictd_py.protocols.ratstls.issue import Form, issue
from verdictd_py.simulator import TdMeasurements
from verdictd_py.tees.tdx.tee import REGISTERS

BOOT = (command_line(b"quiet"), event(1, 0x80000007, b"action"))


async def judged(
    broker: RunningBroker, log: bytes, *, rtmr3: bytes | None = None, later: tuple[Event, ...] = ()
) -> Appraisal:
    """Appraise a guest that measured BOOT and `later`, and sends `log`.

    Args:
        rtmr3: the register in place of what it measured.
    """
    measured = EventLog((*BOOT, *later), REGISTERS).replay()
    if rtmr3 is not None:
        measured["rtmr3"] = rtmr3
    td = TdMeasurements(**measured)  # type: ignore[arg-type]  # by name
    certificate = issue(
        Form.CURRENT,
        key=ec.generate_private_key(ec.SECP256R1()),
        quote_for=broker.attester(measurements=td).quote,
        now=broker.now,
    )
    appraiser: Appraiser = broker.attested._guests.appraiser
    return await appraiser.appraise(lambda now: replace(read(certificate, now), event_log=log))
