"""The broker's own certificate, renewed without dropping a connection."""

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
"""After a renewal that failed; a third of the certificate's life is left for it."""


class RenewedIdentity:
    """Our own certificate, renewed at the first connection after it is due.

    Args:
        quote_for: makes quotes about the broker for clients that insist on them; None for
            a certificate without evidence.
        events: told where new evidence cannot be had; the old certificate is then shown on.

    Raises:
        ConfigError: there is no evidence to begin with.
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
        """TLS settings for the next connection."""
        now = self._clock()
        if self._identity.due(now) and now >= self._not_before:
            try:
                self._identity = self._identity.fresh(now)
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
