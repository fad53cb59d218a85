"""Two valid guests whose keys, certificates, claims and quotes are exchanged."""

from __future__ import annotations

import os
from functools import partial
from itertools import product

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from OpenSSL import SSL, crypto

from tests.support.broker import RunningBroker
from tests.support.ratstls import DICE, extensions_of, read, self_signed
from tests.support.tees import TEES
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.errors import BindingMismatch
from verdictd_py.guest.attesters import use_certificate
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.protocols.ratstls import dice
from verdictd_py.protocols.ratstls.issue import Form, issue
from verdictd_py.protocols.ratstls.session import client_context

GUESTS = (0, 1)


class Guest:
    """The key of a guest and the parts of its evidence."""

    def __init__(self, broker: RunningBroker) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        quote_for = broker.attester().quote
        self.certificate = issue(Form.CURRENT, key=self.key, quote_for=quote_for, now=broker.now)
        _, value = extensions_of(self.certificate)[DICE]
        self.evidence = dice.read_evidence(value, TEES.tags)


@pytest.mark.parametrize("stolen", [False, True])
async def test_a_certificate_without_its_key_is_refused(
    broker: RunningBroker, stolen: bool
) -> None:
    """The evidence is genuine, but TLS requires a signature by the guest's key."""
    honest, thief = Guest(broker), Guest(broker)
    shown = honest.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    context = client_context(shown)
    use_certificate(context, honest.certificate)
    use_key(context, of=(thief if stolen else honest).key, beside=honest.key)
    if stolen:
        with pytest.raises(BrokerRefused):
            async with GuestConnection.open(*broker.address, context, timeout_seconds=60) as guest:
                await guest.version()
    else:
        async with GuestConnection.open(*broker.address, context, timeout_seconds=60) as guest:
            assert await guest.version() == "v1"
    assert bool(broker.events.named("guest.accepted")) is not stolen


def use_key(
    context: SSL.Context, *, of: ec.EllipticCurvePrivateKey, beside: ec.EllipticCurvePrivateKey
) -> None:
    """Return a private key with the public half of another key (RFC 5915)."""
    number = of.private_numbers().private_value.to_bytes(32, "big")
    point = beside.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    curve = bytes.fromhex("a00a06082a8648ce3d030107")  # [0] prime256v1
    body = bytes.fromhex("0201010420") + number + curve + bytes.fromhex("a144034200") + point
    with os.fdopen(os.memfd_create("key"), "wb", buffering=0) as file:
        file.write(bytes([0x30, len(body)]) + body)
        context.use_privatekey_file(f"/proc/self/fd/{file.fileno()}", crypto.FILETYPE_ASN1)


@pytest.mark.parametrize(("key", "claims", "quote"), list(product(GUESTS, repeat=3)))
async def test_only_matching_parts_are_accepted(
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
    appraiser: Appraiser = broker.attested._guests.appraiser
    appraisal = await appraiser.appraise(partial(read, made))
    assert appraisal.accepted is (key == claims == quote)
    if not appraisal.accepted:
        assert isinstance(appraisal.refusal, BindingMismatch)
