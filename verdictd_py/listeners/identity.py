"""Renewal of the broker's own certificate, without dropping a connection."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from OpenSSL import SSL

from verdictd_py.domain.events import WarningIdentity
from verdictd_py.errors import AttestationError, ConfigError
from verdictd_py.ports import Events
from verdictd_py.protocols.ratstls.identity import ServerIdentity
from verdictd_py.protocols.ratstls.session import server_context

RETRY: Final = timedelta(minutes=1)
"""Pause after a failed renewal. Renewal begins when a third of the lifetime is left."""


class RenewedIdentity:
    """The broker's certificate, renewed at the first connection after it is due.

    Args:
        quote_for: returns quotes about the broker, for clients that require them; None for
            a certificate without evidence.
        events: records failed renewals; the old certificate then stays in use.

    Raises:
        ConfigError: there is no evidence for the first certificate.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        require_certificate: bool,
        events: Events,
        quote_for: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._clock = clock
        self._require_certificate = require_certificate
        self._events = events
        self._identity = ServerIdentity.create(clock(), quote_for=quote_for)
        self._context = self._build()
        self._not_before = clock()

    def context(self) -> SSL.Context:
        """Return the TLS settings for the next connection."""
        now = self._clock()
        if self._identity.is_due(now) and now >= self._not_before:
            try:
                self._identity = self._identity.renewed(now)
                self._context = self._build()
            except (ConfigError, AttestationError) as error:
                self._not_before = now + RETRY
                self._events.record(WarningIdentity(reason=str(error)))
        return self._context

    def _build(self) -> SSL.Context:
        return server_context(
            self._identity.certificate,
            self._identity.private_key,
            require_certificate=self._require_certificate,
        )
