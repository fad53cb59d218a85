"""TLS contexts of attested guests, each with one thing wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from tests.support.broker import RunningBroker
from tests.support.ratstls import DICE, VENDOR, extensions_of, key_der, self_signed
from verdictd_py.formats.collateral import Collateral
from verdictd_py.guest.attesters import guest_context, use_certificate
from verdictd_py.protocols.ratstls.issue import Form, issue
from verdictd_py.protocols.ratstls.session import client_context
from verdictd_py.simulator import SimulatedPlatform

Contexts = Callable[[RunningBroker], SSL.Context]


def fresh_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def with_certificate(key: ec.EllipticCurvePrivateKey, certificate: bytes) -> SSL.Context:
    context = client_context(key_der(key))
    use_certificate(context, certificate)
    return context


class FixedQuote:
    """An attester that shows one quote, whatever it is asked to vouch for."""

    def __init__(self, quote: bytes) -> None:
        self._quote = quote

    def quote(self, report_data: bytes) -> bytes:
        del report_data
        return self._quote

    def endorsements(self, now: datetime) -> Collateral | None:
        del now
        return None


def anothers_quote(form: Form) -> Contexts:
    """The quote of guest A in a certificate that is B's otherwise."""

    def context(broker: RunningBroker) -> SSL.Context:
        quotes: list[bytes] = []

        def kept(report_data: bytes) -> bytes:
            quotes.append(broker.attester().quote(report_data))
            return quotes[0]

        issue(form, key=fresh_key(), quote_for=kept, now=broker.now)
        return guest_context(FixedQuote(quotes[0]), form, now=broker.now)

    return context


def anothers_extension(form: Form) -> Contexts:
    """The whole evidence of guest A, claims and all, in a certificate for the key of B."""

    def context(broker: RunningBroker) -> SSL.Context:
        quote_for = broker.attester().quote
        extensions = extensions_of(
            issue(form, key=fresh_key(), quote_for=quote_for, now=broker.now)
        )
        oid = VENDOR + "8" if form is Form.LEGACY else DICE
        key = fresh_key()
        day = timedelta(days=1)
        certificate = self_signed(
            [(oid, *extensions[oid])], key=key, begin=broker.now - day, end=broker.now + day
        )
        return with_certificate(key, certificate)

    return context


def issued(after: timedelta) -> Contexts:
    """A genuine guest whose certificate was made some time before or after now."""
    return lambda broker: guest_context(broker.attester(), Form.CURRENT, now=broker.now + after)


def simulated(**how: Any) -> Contexts:
    return lambda broker: broker.context(broker.attester(**how))


def of_another_root(*, endorse: bool) -> Contexts:
    def context(broker: RunningBroker) -> SSL.Context:
        other = dataclasses.replace(broker, platform=SimulatedPlatform.create(now=broker.now))
        return broker.context(other.attester(endorse=endorse))

    return context
