"""Limits that all guest-facing listeners have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from verdictd_py.listeners.shares import ShareLimits


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a guest-facing listener (wire-rats-tls.md, "Session"); times in seconds."""

    handshake: float = 10
    appraisal: float = 30
    request: float = 30
    idle: float = 300
    connections: int = 4096
    per_address: int | None = None
    per_platform: int | None = None
    evidence_age: timedelta | None = None

    @property
    def shares(self) -> ShareLimits:
        return ShareLimits.of(self.connections, self.per_address, self.per_platform)
