"""Two valid guests: key, certificate, claims and quote of one with those of the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from tests.ratstls.support import DICE, extensions_of, self_signed
from tests.system.broker import RunningBroker, running_broker
from verdictd_py import app
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import BindingMismatch
from verdictd_py.ratstls import certificate, dice
from verdictd_py.ratstls.issue import Form, issue
from verdictd_py.simulator import SimulatedPlatform

GUESTS = (0, 1)


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform) as running:
        yield running


class Guest:
    """A key, and the evidence for it, taken apart."""

    def __init__(self, broker: RunningBroker) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        quote_for = broker.attester().quote
        self.certificate = issue(Form.CURRENT, key=self.key, quote_for=quote_for, now=broker.now)
        _, value = extensions_of(self.certificate)[DICE]
        self.evidence = dice.read_evidence(value)


@pytest.mark.parametrize(("key", "claims", "quote"), list(product(GUESTS, repeat=3)))
async def test_only_what_belongs_together_is_accepted(
    broker: RunningBroker, key: int, claims: int, quote: int
) -> None:
    guests = [Guest(broker), Guest(broker)]
    evidence = dice.DiceEvidence(
        guests[0].evidence.tag, guests[quote].evidence.quote, guests[claims].evidence.claims
    )
    made = self_signed(
        [(DICE, False, dice.write_evidence(evidence))],
        key=guests[key].key,
        begin=broker.now.replace(microsecond=0),
    )
    appraiser: Appraiser = broker.daemon._attested._appraiser
    appraisal = await appraiser.judge(partial(_read, made))
    assert appraisal.accepted is (key == claims == quote)
    if not appraisal.accepted:
        assert isinstance(appraisal.refusal, BindingMismatch)


def _read(der: bytes, now: datetime) -> Evidence:
    return certificate.read(der, now=now)
