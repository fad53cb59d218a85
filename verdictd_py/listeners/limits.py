"""Limits that all guest-facing listeners have in common."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a guest-facing listener (wire-rats-tls.md, "Session"); times in seconds."""

    handshake: float = 10
    appraisal: float = 30
    request: float = 30
    idle: float = 300
    connections: int = 4096
    evidence_age: timedelta | None = None
