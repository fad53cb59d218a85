"""Limits that all guest-facing listeners have in common."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta

from verdictd_py.listeners.shares import ShareLimits


@dataclass(slots=True)
class Limits:
    """Limits of a guest-facing listener (wire-rats-tls.md, "Session"); times in seconds.

    The listeners share one object, and read a limit when they need it. So changed limits are in
    force for connections that are open, too.
    """

    handshake: float = 10
    appraisal: float = 30
    request: float = 30
    idle: float = 300
    connections: int = 4096
    per_address: int | None = None
    per_platform: int | None = None
    evidence_age: timedelta | None = None
    drain: float = 5

    @property
    def shares(self) -> ShareLimits:
        return ShareLimits.of(self.connections, self.per_address, self.per_platform)

    def adopt(self, new: Limits) -> None:
        """Take over the limits of `new`."""
        for field in fields(self):
            setattr(self, field.name, getattr(new, field.name))
