"""The broker's own certificate, renewed without dropping a connection."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from OpenSSL import SSL

from verdictd_py.ratstls.identity import ServerIdentity
from verdictd_py.ratstls.session import server_context


class RenewedIdentity:
    """Our own certificate, renewed at the first connection after it is due."""

    def __init__(self, clock: Callable[[], datetime], *, require_certificate: bool) -> None:
        self._clock = clock
        self._require_certificate = require_certificate
        self._identity = ServerIdentity.create(clock())
        self._context = self._build()

    def context(self) -> SSL.Context:
        """TLS settings for the next connection."""
        now = self._clock()
        if self._identity.due(now):
            self._identity = self._identity.fresh(now)
            self._context = self._build()
        return self._context

    def _build(self) -> SSL.Context:
        return server_context(
            self._identity.certificate,
            self._identity.private_key,
            require_certificate=self._require_certificate,
        )
