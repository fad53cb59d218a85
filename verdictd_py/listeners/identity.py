"""Renewal of the broker's own certificate, without dropping a connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from OpenSSL import SSL

from verdictd_py.domain.events import WarningIdentity
from verdictd_py.errors import AttestationError, ConfigError
from verdictd_py.ports import Events
from verdictd_py.protocols.ratstls.identity import ServerIdentity
from verdictd_py.protocols.ratstls.session import server_context

KEY_SECONDS: Final = 240 * 86_400.0
"""Age at which the certificate is replaced. Its validity is fixed; this limits the use of its key,
and of its quote if it has one."""

RETRY_SECONDS: Final = 60.0
"""Pause after a failed renewal."""


class RenewedIdentity:
    """The broker's certificate, renewed at the first connection after it is due.

    It does not use the wall clock, so a clock that is wrong or is set has no effect.

    Args:
        quote_for: returns quotes about the broker, for clients that require them; None for
            a certificate without evidence.
        events: records failed renewals; the old certificate then stays in use.
        monotonic: monotonic clock in seconds.

    Raises:
        ConfigError: there is no evidence for the first certificate.
    """

    def __init__(
        self,
        *,
        require_certificate: bool,
        events: Events,
        quote_for: Callable[[bytes], bytes] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._require_certificate = require_certificate
        self._events = events
        self._quote_for = quote_for
        self._monotonic = monotonic
        self._context = self._create()
        self._due = monotonic() + KEY_SECONDS

    def context(self) -> SSL.Context:
        """Return the TLS settings for the next connection."""
        now = self._monotonic()
        if now >= self._due:
            try:
                self._context = self._create()
                self._due = now + KEY_SECONDS
            except (ConfigError, AttestationError) as error:
                self._due = now + RETRY_SECONDS
                self._events.record(WarningIdentity(reason=str(error)))
        return self._context

    def _create(self) -> SSL.Context:
        identity = ServerIdentity.create(quote_for=self._quote_for)
        return server_context(
            identity.certificate,
            identity.private_key,
            require_certificate=self._require_certificate,
        )
